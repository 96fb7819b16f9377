"""A private PostgreSQL server: data folder, command line, readiness."""

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from deploy.local import accounts, binaries
from deploy.local.errors import LocalError, ProcessFailed
from deploy.local.ports import HOST

DATABASE = "retort"
PASSWORD_MARK = "retort-password"  # in the data folder, and as private

STILL_IN_USE = "pre-existing shared memory block"
CHILDREN_SECONDS = 10.0


class PostgreSQL:
    """folder: for the data, unless root must use another account's (see accounts)."""

    def __init__(
        self,
        folder: Path,
        *,
        port: int,
        password: str,
        throw_away: bool = False,
    ):
        programs = binaries.postgres(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        self.account = accounts.for_postgres(folder.parent, programs)
        self.data, self.programs = accounts.place_for(self.account, folder, programs)
        self.port = port
        self.password = password
        self.throw_away = throw_away  # for tests: nothing is synced to the disk

    @property
    def url(self) -> str:
        return f"postgres://postgres:{self.password}@{HOST}:{self.port}/{DATABASE}"

    def prepare(self) -> None:
        """Create the data folder if it is missing. No server may run on it. Raises LocalError."""
        for unfinished in self.data.parent.glob(f".{self.data.name}-unfinished-*"):
            shutil.rmtree(unfinished, ignore_errors=True)
        if self.data.exists() and not (self.data / "PG_VERSION").is_file():
            if any(self.data.iterdir()):
                raise LocalError(
                    f"{self.data} is not a PostgreSQL folder. Move it away, or set RETORT_HOME to another folder."
                )
            self.data.rmdir()
        if not self.data.exists():
            self._initialise()
            return
        self._forget_stranger()
        self._set_password()

    def _initialise(self) -> None:
        """Create the data under a temporary name first, so that the final name means that it is complete."""
        fresh = Path(
            tempfile.mkdtemp(prefix=f".{self.data.name}-unfinished-", dir=self.data.parent)
        )
        self.account.own(fresh)
        handle, password_file = tempfile.mkstemp(dir=self.data.parent)
        try:
            with os.fdopen(handle, "w") as file:
                file.write(self.password + "\n")
            self.account.own(Path(password_file))
            command: list[str | Path] = [
                self.programs / "initdb", "-D", fresh, "-U", "postgres", "--encoding=UTF8", "--locale=C.UTF-8",
                # Always with a password: every local account can connect over TCP.
                "--auth=scram-sha-256", f"--pwfile={password_file}",
            ]  # fmt: skip
            if self.throw_away:
                command.append("--no-sync")
            done = self.account.run(command)
            if done.returncode != 0 and "locale" in done.stderr:  # macOS before 14 has no C.UTF-8
                shutil.rmtree(fresh)
                fresh.mkdir(mode=0o700)
                self.account.own(fresh)
                done = self.account.run(
                    [*(c for c in command if c != "--locale=C.UTF-8"), "--locale=C"]
                )
            if done.returncode != 0:
                raise ProcessFailed(f"initdb failed:\n{done.stdout[-1000:]}{done.stderr[-2000:]}")
            self._single_user(f"CREATE DATABASE {DATABASE}", fresh)
            self._note_password(fresh)
            fresh.rename(self.data)
        finally:
            Path(password_file).unlink(missing_ok=True)
            if fresh.exists():
                shutil.rmtree(fresh, ignore_errors=True)

    def _single_user(self, statement: str, data: Path) -> None:
        command: list[str | Path] = [self.programs / "postgres", "--single", "-D", data]
        if self.throw_away:
            command += ["-c", "fsync=off"]
        done = self.account.run([*command, "postgres"], input=statement + "\n")
        deadline = time.monotonic() + CHILDREN_SECONDS
        while STILL_IN_USE in done.stderr and time.monotonic() < deadline:
            time.sleep(0.2)  # the children of a killed server end one after another
            done = self.account.run([*command, "postgres"], input=statement + "\n")
        # Single-user mode exits with 0 even when the statement failed.
        if done.returncode != 0 or "ERROR:" in done.stderr or "FATAL:" in done.stderr:
            raise ProcessFailed(f"PostgreSQL could not prepare {data}:\n{done.stderr[-2000:]}")

    def _set_password(self) -> None:
        """Set the database's password to ours, since the secrets may have been lost without the data."""
        mark = self.data / PASSWORD_MARK
        if not mark.is_file() or mark.read_text() != self.password:
            self._single_user(f"ALTER ROLE postgres PASSWORD '{self.password}'", self.data)
            self._note_password(self.data)

    def _note_password(self, data: Path) -> None:
        mark = data / PASSWORD_MARK
        mark.touch(mode=0o600)
        mark.write_text(self.password)
        self.account.own(mark)

    def command(self) -> list[str]:
        """Return the command that serves in the foreground. SIGINT stops it fast and orderly."""
        settings = {
            "listen_addresses": HOST,
            "unix_socket_directories": "",
            "max_connections": "200",
            "log_timezone": "UTC",
        }
        if self.throw_away:
            settings |= dict.fromkeys(("fsync", "synchronous_commit", "full_page_writes"), "off")
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return [
            *self.account.prefix, str(self.programs / "postgres"),
            "-D", str(self.data), "-p", str(self.port), *options,
        ]  # fmt: skip

    def is_ready(self) -> bool:
        # With user and database, or the server would log an unknown role at each check.
        command = [
            str(self.programs / "pg_isready"),
            "-q", "-h", HOST, "-p", str(self.port), "-U", "postgres", "-d", DATABASE,
        ]  # fmt: skip
        return subprocess.run(command, check=False).returncode == 0

    def remove_foreign_data(self) -> None:
        """Delete the data if it is outside of our folder, owned by another account."""
        if self.account.user:
            shutil.rmtree(self.data.parent, ignore_errors=True)

    def _forget_stranger(self) -> None:
        """Remove a pid file that names another process, as after a power failure: PostgreSQL would not start.

        A server on this folder has it as its working directory.
        """
        file = self.data / "postmaster.pid"
        with contextlib.suppress(OSError, ValueError, psutil.Error):
            process = psutil.Process(int(file.read_text().split("\n", 1)[0]))
            if process.name() != "postgres" or Path(process.cwd()) != self.data.resolve():
                file.unlink()


def wait_until(is_ready: Callable[[], bool], seconds: float, *, step: float = 0.02) -> bool:
    """Poll `is_ready`. Return whether it became true in this time."""
    deadline = time.monotonic() + seconds
    while not is_ready():
        if time.monotonic() > deadline:
            return False
        time.sleep(step)
    return True
