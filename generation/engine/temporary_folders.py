"""Temporary folders on the file system of their target: /tmp of a container is small and in memory."""

import fcntl
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = ".retort-temporary-"
LOCK = "lock"  # a file in the folder, locked while the folder is in use
FRESH_SECONDS = 60  # a younger folder may not be locked yet


@contextmanager
def create(root: Path) -> Iterator[Path]:
    """Create a folder in `root` and remove it at the end, with those there whose process was killed."""
    root.mkdir(parents=True, exist_ok=True)
    _remove_left(root)
    with (
        tempfile.TemporaryDirectory(prefix=PREFIX, dir=root.absolute()) as name,
        (Path(name) / LOCK).open("w") as lock,
    ):
        with suppress(OSError):  # a file system without locks, where nothing is removed
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield Path(name)


def _remove_left(root: Path) -> None:
    """Remove the folders of killed processes: they may be as large as a release, or hold a dump of the database."""
    for folder in root.glob(f"{PREFIX}*"):
        with suppress(OSError):  # in use, of another account, or removed by another process
            if time.time() - folder.stat().st_mtime < FRESH_SECONDS:
                continue
            with (folder / LOCK).open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
