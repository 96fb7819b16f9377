"""PostgreSQL and Redis for one test run: in a temporary folder, nothing synced to disk, gone afterwards."""

import fcntl
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from deploy.local import ports
from deploy.local.errors import ProcessFailed
from deploy.local.postgresql import PostgreSQL, wait_until
from deploy.local.redis import Redis
from deploy.local.supervision import tail

PREFIX = f"retort-servers-{os.getuid()}-"
REDIS_DATABASES = 64  # one per parallel test process


class ThrowAway:
    """A context manager; `environment` is what the project's settings need. Servers named there already are used."""

    def __enter__(self) -> "ThrowAway":
        remove_abandoned()
        self.folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        self._lock = (self.folder / "lock").open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)  # while it is held, nobody clears this folder away
        self._processes: list[tuple[PostgreSQL | Redis, subprocess.Popen[bytes]]] = []
        self.environment = {
            "SECRET_KEY": secrets.token_urlsafe(50),
            "DATA_DIR": str(self.folder / "data"),
            **os.environ,
        }
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _start(self) -> None:
        servers: list[PostgreSQL | Redis] = []
        password = secrets.token_hex(16)
        if not self.environment.get("DATABASE_URL"):
            postgres = PostgreSQL(
                self.folder / "postgres", port=ports.pick(), password=password, throw_away=True
            )
            self.environment["DATABASE_URL"] = postgres.url
            servers.append(postgres)
        if not self.environment.get("REDIS_URL"):
            redis = Redis(
                self.folder / "redis", port=ports.pick(), password=password,
                databases=REDIS_DATABASES, throw_away=True,
            )  # fmt: skip
            self.environment["REDIS_URL"] = redis.url
            servers.append(redis)
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda server: server.prepare(), servers))
        for server in servers:
            name = type(server).__name__.lower()
            log = self.folder / f"{name}.log"
            identity = server.account.identity() if isinstance(server, PostgreSQL) else {}
            with log.open("wb") as output:
                process = subprocess.Popen(
                    server.command(), stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                    start_new_session=True, **identity,
                )  # fmt: skip
            self._processes.append((server, process))
            if not wait_until(lambda s=server, p=process: p.poll() is not None or s.is_ready(), 60):  # type: ignore[misc]
                raise ProcessFailed(f"{name} does not answer:\n{tail(log)}")
            if process.poll() is not None:
                raise ProcessFailed(f"{name} does not start:\n{tail(log)}")

    def _stop(self) -> None:
        for server, process in reversed(self._processes):
            # An orderly stop of PostgreSQL waits for its disk; nobody will read these files again.
            process.send_signal(
                signal.SIGQUIT if isinstance(server, PostgreSQL) else signal.SIGTERM
            )
        for server, process in self._processes:
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if isinstance(server, PostgreSQL):
                server.remove_foreign_data()
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.close()


def remove_abandoned() -> None:
    """Servers and folders of earlier runs that were killed before they could clean up."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        try:
            if time.time() - folder.stat().st_mtime < 5:
                continue  # just being made
            with (folder / "lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                postgres = PostgreSQL(folder / "postgres", port=0, password="", throw_away=True)
                postgres.stop_leftover()
                postgres.remove_foreign_data()
                Redis(folder / "redis", port=0, password="").stop_leftover()
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue  # in use, or half removed by somebody who does the same


def run(command: list[str]) -> int:
    """Run `command` with servers of its own. Its exit code; signals reach it, and we clean up after it."""
    process: subprocess.Popen[bytes] | None = None

    def stop(received: int, _: object) -> None:
        if process is None:
            raise KeyboardInterrupt  # still starting the servers
        if received != signal.SIGINT:  # the terminal sent that one to the command as well
            process.send_signal(received)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    with ThrowAway() as servers:
        process = subprocess.Popen(command, env=servers.environment)
        code = process.wait()
    return code if code >= 0 else 128 - code  # as a shell says that a signal ended it
