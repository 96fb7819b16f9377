"""PostgreSQL, Redis and PgBouncer as processes that the programme kills, stops and starts again."""

import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg2
import redis

from deploy.local import ports
from deploy.local.home import Home
from deploy.local.postgresql import DATABASE, PostgreSQL
from deploy.local.redis import Redis
from deploy.local.supervision import marked
from tests import redis_states
from tests.acceptance.stack import wait_for

PASSWORD = "chaos"
CUT = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE backend_type = 'client backend' AND application_name <> 'chaos'"
)
PGBOUNCER = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")


class Server:
    """A process that can be killed, frozen and started again. home: marks the process, to find an abandoned one."""

    def __init__(self, home: Home, name: str) -> None:
        self.home = home
        self.name = name
        self.process: subprocess.Popen[bytes] | None = None

    def command(self) -> Sequence[str]:
        raise NotImplementedError

    def is_ready(self) -> bool:
        raise NotImplementedError

    def start(self) -> None:
        """Start it and return when it answers. Start it again if it ends: children of a killed one may still run."""

        def look() -> bool:
            if not self.is_running():
                self._spawn()
            return self.is_ready()

        wait_for(look, f"{self.name} answers")

    def _spawn(self) -> None:
        with (self.home.logs / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command(),
                stdout=log,
                stderr=log,
                env=marked(os.environ, self.home),
                start_new_session=True,
                **self.options(),
            )

    def options(self) -> dict[str, Any]:
        return {}

    def end(self, number: int = signal.SIGKILL) -> None:
        """End it with this signal."""
        if self.process and self.process.poll() is None:
            self.thaw()
            self.process.send_signal(number)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(60)
            self.process.kill()
            self.process.wait()

    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def crash(self) -> None:
        """End it and all its children at once, as in a power failure of the host."""
        self._signal(signal.SIGKILL)
        if self.process:
            self.process.wait()

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        """Send it to the process and all its children."""
        if self.process is None:
            return
        with suppress(psutil.Error):
            parent = psutil.Process(self.process.pid)
            for process in (parent, *parent.children(recursive=True)):
                with suppress(psutil.Error):
                    process.send_signal(number)


class PostgresServer(Server):
    """folder: for the data, below one of its own."""

    def __init__(self, home: Home, folder: Path, name: str = "postgres") -> None:
        super().__init__(home, name)
        self.server = PostgreSQL(folder, port=ports.pick(), password=PASSWORD, throw_away=True)
        self.url = self.server.url

    def command(self) -> list[str]:
        # A killed server must keep what it acknowledged; only a power failure would need syncs to the disk.
        return [*self.server.command(), "-c", "synchronous_commit=on", "-c", "full_page_writes=on"]

    def options(self) -> dict[str, Any]:
        return self.server.account.identity()

    def is_ready(self) -> bool:
        return self.server.is_ready()

    def prepare(self) -> None:
        self.server.prepare()

    def connect(self) -> Any:
        """Return a direct session without PgBouncer, writable in every state of the server."""
        connection = psycopg2.connect(
            self.url,
            connect_timeout=10,
            application_name="chaos",
            options="-c default_transaction_read_only=off",
        )
        connection.autocommit = True
        return connection

    def query(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        connection = self.connect()
        try:
            with connection.cursor() as cursor:
                cursor.execute(sql, parameters or None)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def cut(self) -> None:
        """End the sessions of all clients but the programme's."""
        self.query(CUT)

    def set(self, name: str, value: str | None) -> None:
        """Set a parameter of the server, or reset it, for sessions that begin now."""
        words = f"SET {name} = '{value}'" if value is not None else f"RESET {name}"
        self.query(f"ALTER SYSTEM {words}")
        self.query("SELECT pg_reload_conf()")

    def standby(self, folder: Path) -> "PostgresServer":
        """Start a standby that has each transaction before the client gets its confirmation."""
        found = PostgresServer(self.home, folder, "standby")
        copy: list[str | Path] = [
            found.server.programs / "pg_basebackup", "--pgdata", found.server.data,
            "--dbname", self.url.removesuffix(f"/{DATABASE}"), "--write-recovery-conf", "--checkpoint=fast",
        ]  # fmt: skip
        done = found.server.account.run(copy)
        assert done.returncode == 0, done.stderr
        found.start()
        self.set("synchronous_standby_names", "*")
        state = "SELECT sync_state FROM pg_stat_replication"
        wait_for(lambda: self.query(state) == [("sync",)], "the standby has every transaction")
        return found

    def fail_over(self, standby: "PostgresServer") -> None:
        """Promote the standby of this crashed server, and be that server from now on."""
        standby.query("SELECT pg_promote()")
        shutil.rmtree(self.server.data)
        self.server, self.url, self.process = standby.server, standby.url, standby.process


class RedisServer(Server):
    """Can be put into `tests.redis_states.RedisStates`."""

    def __init__(self, home: Home) -> None:
        super().__init__(home, "redis")
        self.server = Redis(home.redis, port=ports.pick(), password=PASSWORD)
        self.url = self.server.url

    def command(self) -> list[str]:
        return self.server.command()

    def is_ready(self) -> bool:
        return self.server.is_ready()

    def prepare(self) -> None:
        redis_states.prepare(self.server)

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url, socket_timeout=10)


class PgBouncer(Server):
    """In transaction mode, with few connections to the server."""

    def __init__(self, home: Home, postgres: PostgresServer) -> None:
        super().__init__(home, "pgbouncer")
        self.port = ports.pick()
        self.config = home.folder / "pgbouncer.ini"
        self.postgres = postgres
        self.url = f"postgres://postgres:{PASSWORD}@{ports.HOST}:{self.port}/{DATABASE}"

    def prepare(self) -> None:
        port = self.postgres.server.port
        self.config.write_text(
            f"""
[databases]
{DATABASE} = host={ports.HOST} port={port} user=postgres password={PASSWORD}
[pgbouncer]
listen_addr = {ports.HOST}
listen_port = {self.port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 20
max_client_conn = 500
max_prepared_statements = 0
server_login_retry = 1
query_wait_timeout = 10
{"user = nobody" if os.geteuid() == 0 else ""}
"""
        )
        self.config.chmod(0o644)

    def command(self) -> list[str]:
        return [str(PGBOUNCER), str(self.config)]

    def is_ready(self) -> bool:
        return not ports.is_free(self.port)


class Repeating:
    """An action that a thread repeats until `stop`; its errors are the fault's own and are not raised."""

    def __init__(self, action: Callable[[], object], seconds: float) -> None:
        self._ended = threading.Event()

        def run() -> None:
            while not self._ended.wait(seconds):
                with suppress(Exception):
                    action()

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()
