"""A Redis server for one test, and the states in which Redis answers but refuses to serve."""

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

from deploy.local import ports
from deploy.local.redis import Redis

OTHER_PASSWORD = "changed-at-run-time"


class RedisServer:
    """A server with its data in a folder of the test. End it with `stop`."""

    def __init__(self, folder: Path) -> None:
        self._settings = Redis(folder, port=ports.pick(), password="secret", throw_away=True)
        self._settings.prepare()
        with self._settings.config.open("a") as config:
            config.write("enable-debug-command local\nenable-protected-configs local\n")
        self.url = self._settings.url
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            self._settings.command(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 60
        while not self._settings.is_ready():
            assert time.monotonic() < deadline, "Redis does not start"
            time.sleep(0.02)
        # This connection survives a change of the password.
        self.admin = redis.Redis.from_url(self.url, decode_responses=True)
        self.admin.ping()

    def stop(self) -> None:
        self.admin.close()
        self.process.kill()
        self.process.wait()

    # --- states -----------------------------------------------------------------------------------
    @contextmanager
    def read_only(self) -> Iterator[None]:
        """READONLY: the server is the replica of another, as during a failover."""
        self.admin.execute_command("REPLICAOF", "127.0.0.1", "1")
        yield
        self.admin.execute_command("REPLICAOF", "NO", "ONE")

    @contextmanager
    def master_down(self) -> Iterator[None]:
        """MASTERDOWN: a replica that does not answer with data that may be old."""
        self.admin.config_set("replica-serve-stale-data", "no")
        with self.read_only():
            yield
        self.admin.config_set("replica-serve-stale-data", "yes")

    @contextmanager
    def out_of_memory(self) -> Iterator[None]:
        """OOM: commands that need memory are refused."""
        self.admin.config_set("maxmemory", 1)
        yield
        self.admin.config_set("maxmemory", 0)

    @contextmanager
    def cannot_save(self) -> Iterator[None]:
        """MISCONF: snapshots fail, as on a full disk, and writes are refused."""
        # Without its folder, a snapshot fails as on a full disk.
        folder = self._settings.folder / "gone"
        folder.mkdir(exist_ok=True)
        self.admin.config_set("dir", str(folder))
        folder.rmdir()
        self.admin.config_set("save", "3600 1000000")
        self.admin.bgsave()
        while self.admin.info("persistence")["rdb_last_bgsave_status"] != "err":
            time.sleep(0.02)
        yield
        self.admin.config_set("save", "")
        self.admin.config_set("dir", str(self._settings.folder))

    @contextmanager
    def too_few_replicas(self) -> Iterator[None]:
        """NOREPLICAS: writes need a replica, and none is connected."""
        self.admin.config_set("min-replicas-to-write", 1)
        yield
        self.admin.config_set("min-replicas-to-write", 0)

    @contextmanager
    def other_password(self) -> Iterator[None]:
        """WRONGPASS: the password changed, and earlier connections were cut."""
        self.admin.config_set("requirepass", OTHER_PASSWORD)
        self.admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        yield
        self.admin.config_set("requirepass", "secret")

    @contextmanager
    def loading(self) -> Iterator[None]:
        """LOADING: the server reads its data, as after a restart."""
        self.admin.config_set("key-load-delay", 0)
        with self.admin.pipeline(transaction=False) as pipe:
            for number in range(400):
                pipe.set(f"ballast:{number}", "x" * 1000)
            pipe.execute()
        self.admin.save()
        self.admin.config_set("loading-process-events-interval-bytes", 1024)
        self.admin.config_set("key-load-delay", 10_000)  # microseconds
        loader = redis.Redis.from_url(self.url, socket_timeout=60)
        connection = loader.connection_pool.get_connection()
        connection.send_command("DEBUG", "RELOAD", "NOSAVE")
        yield
        connection.read_response()
        loader.close()
        self.admin.config_set("key-load-delay", 0)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """The server accepts connections and answers nothing."""
        self.process.send_signal(signal.SIGSTOP)
        yield
        self.process.send_signal(signal.SIGCONT)

    @contextmanager
    def dead(self) -> Iterator[None]:
        """The server refuses connections, and is empty afterwards."""
        self.stop()
        yield
        self.start()


State = Callable[[RedisServer], "contextmanager[None]"]
REFUSING = (
    "read_only",
    "master_down",
    "out_of_memory",
    "cannot_save",
    "too_few_replicas",
    "other_password",
    "loading",
)
AWAY = ("frozen", "dead")
