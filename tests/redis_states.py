"""States in which Redis answers but refuses to serve, and a Redis server for one test."""

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

from deploy.local import ports
from deploy.local.redis import Redis

OTHER_PASSWORD = "changed-at-run-time"
BALLAST = 400  # keys that are loaded one by one


def prepare(server: Redis) -> None:
    """Write the server's configuration, with the commands that the states need."""
    server.prepare()
    with server.config.open("a") as config:
        config.write("enable-debug-command local\nenable-protected-configs local\n")


class RedisStates:
    """States of a running server that was prepared by `prepare`. Each is entered by a context manager."""

    def __init__(self, server: Redis) -> None:
        self._server = server
        self.connect()

    def connect(self) -> None:
        # This connection survives a change of the password.
        self.admin = redis.Redis.from_url(self._server.url, decode_responses=True)
        self.admin.ping()

    def close(self) -> None:
        self.admin.close()

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
        folder = self._server.folder / "gone"
        folder.mkdir(exist_ok=True)
        self.admin.config_set("dir", str(folder))
        folder.rmdir()
        self.admin.config_set("save", "3600 1000000")
        self.admin.bgsave()
        while self.admin.info("persistence")["rdb_last_bgsave_status"] != "err":
            time.sleep(0.02)
        yield
        self.admin.config_set("save", "")
        self.admin.config_set("dir", str(self._server.folder))

    @contextmanager
    def too_few_replicas(self) -> Iterator[None]:
        """NOREPLICAS: writes need a replica, and none is connected."""
        self.admin.config_set("min-replicas-to-write", 1)
        yield
        self.admin.config_set("min-replicas-to-write", 0)

    @contextmanager
    def other_password(self) -> Iterator[None]:
        """The password changed, and earlier connections were cut. WRONGPASS; NOAUTH if there was no password."""
        self.admin.config_set("requirepass", OTHER_PASSWORD)
        for kind in ("normal", "pubsub"):
            self.admin.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
        yield
        self.admin.config_set("requirepass", self._server.password)

    @contextmanager
    def loading(self, *, seconds: float = 4.0) -> Iterator[None]:
        """LOADING: the server reads its data, as after a restart. seconds: the least duration."""
        self.admin.config_set("key-load-delay", 0)
        names = [f"ballast:{number}" for number in range(BALLAST)]
        self.admin.mset(dict.fromkeys(names, "x" * 1000))
        self.admin.save()
        self.admin.config_set("loading-process-events-interval-bytes", 1024)
        microseconds = 1_000_000 * seconds / self.admin.dbsize()
        self.admin.config_set("key-load-delay", int(microseconds) + 1)
        loader = redis.Redis.from_url(self._server.url, socket_timeout=10 * seconds + 60)
        connection = loader.connection_pool.get_connection()
        connection.send_command("DEBUG", "RELOAD", "NOSAVE")
        yield
        connection.read_response()
        loader.close()
        self.admin.config_set("key-load-delay", 0)
        self.admin.delete(*names)


class RedisServer(RedisStates):
    """A server with its data in a folder of the test. End it with `stop`."""

    def __init__(self, folder: Path, *, password: str = "secret") -> None:
        server = Redis(folder, port=ports.pick(), password=password, throw_away=True)
        prepare(server)
        self.url = server.url
        self.process = _started(server)
        super().__init__(server)

    def start(self) -> None:
        self.process = _started(self._server)
        self.connect()

    def stop(self) -> None:
        self.close()
        self.process.kill()
        self.process.wait()

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


def _started(server: Redis) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        server.command(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while not server.is_ready():
        assert time.monotonic() < deadline, "Redis does not start"
        time.sleep(0.02)
    return process


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
