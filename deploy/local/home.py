"""The folder of one local stack (`.retort/`): paths, lock, secrets and state of the launcher."""

import fcntl
import hashlib
import json
import os
import secrets
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from deploy.local.errors import AlreadyRunning, LocalError

PROJECT = Path(__file__).resolve().parents[2]
MAX_SOCKET_PATH = 90  # the kernel takes 103 bytes or more; supervisor appends its pid


class Home:
    """Paths below one folder. Only one launcher can use it at a time."""

    def __init__(self, folder: Path | str | None = None):
        chosen = folder or os.environ.get("RETORT_HOME") or PROJECT / ".retort"
        self.folder = Path(chosen).expanduser().absolute()
        self.postgres = self.folder / "postgres"
        self.redis = self.folder / "redis"
        self.logs = self.folder / "logs"
        self.data = self.folder / "data"
        self.pictures = self.folder / "pictures"
        self.run_file = self.folder / "run.json"
        self.supervisor_config = self.folder / "supervisor.conf"
        self._lock: IO[str] | None = None

    def create(self) -> None:
        try:
            for folder in (self.folder, self.logs, self.data):
                folder.mkdir(parents=True, exist_ok=True)
            self.folder.chmod(0o700)  # makes everything below private, independent of its mode
        except OSError as error:
            raise LocalError(
                f"Cannot write to {self.folder}: {error.strerror}. Set RETORT_HOME to a writable folder."
            ) from error

    def lock(self) -> None:
        """Lock the folder until this process ends in any way. Raises AlreadyRunning."""
        self.create()
        # Not inherited by children: the processes of a killed launcher must not block the next one.
        file = open(self.folder / "launcher.lock", "a+")  # noqa: SIM115 - lives as long as the lock
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise AlreadyRunning(
                f"Another `make run` already uses {self.folder}. Use it, or stop it with Ctrl-C in its terminal, "
                "or set RETORT_HOME to another folder."
            ) from None
        self._lock = file

    def unlock(self) -> None:
        if self._lock:
            self._lock.close()
            self._lock = None

    def sockets(self) -> Path:
        """Return a private folder whose path is short enough for Unix sockets."""
        if len(os.fsencode(self.folder)) + len("/supervisor.sock") < MAX_SOCKET_PATH:
            return self.folder
        name = hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:16]
        folder = Path("/tmp") / f"retort-{os.getuid()}-{name}"
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise LocalError(
                f"{folder} is not private or not yours. Remove it, or set RETORT_HOME to a shorter path."
            )
        return folder

    def secrets(self) -> dict[str, str]:
        """Return the secrets in secrets.json; create missing ones."""
        path = self.folder / "secrets.json"
        known = read_json(path)
        made = {
            "SECRET_KEY": secrets.token_urlsafe(50),
            "LOCAL_API_KEY": f"rt_{secrets.token_hex(4)}_{secrets.token_urlsafe(32)}",
            "METRICS_TOKEN": secrets.token_urlsafe(24),
            "postgres_password": secrets.token_hex(24),
            "redis_password": secrets.token_hex(24),
        } | known
        if made != known:
            write_json(path, made)
        return made

    def read_run(self) -> dict[str, Any]:
        """Return the facts written by a running launcher; empty if none is running."""
        return read_json(self.run_file)


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; empty if the file is missing or incomplete."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file atomically, readable only by the owner."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "w") as file:
            json.dump(content, file, indent=2)
            file.write("\n")
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
