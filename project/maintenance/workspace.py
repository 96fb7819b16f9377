"""Temporary folder of a backup or a restoration in the data folder: /tmp of a container is small and in memory."""

import fcntl
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIXES = (".backup-", ".restore-")
LOCK = "lock"  # a file that is locked while the folder is in use
FRESH_SECONDS = 60  # a younger folder may not have its lock yet


@contextmanager
def temporary(root: Path, prefix: str) -> Iterator[Path]:
    """Create a folder below `root` and remove it at the end, with those of killed commands. prefix: one of PREFIXES."""
    root.mkdir(parents=True, exist_ok=True)
    _remove_left(root)
    with (
        tempfile.TemporaryDirectory(prefix=prefix, dir=root) as name,
        (Path(name) / LOCK).open("w") as lock,
    ):
        with suppress(OSError):  # a file system without locks, where nothing is removed
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield Path(name)


def _remove_left(root: Path) -> None:
    """Remove folders of killed commands: of a copy of the data, or a dump with hashes of passwords."""
    for folder in root.iterdir():
        if folder.name.startswith(PREFIXES) and folder.is_dir():
            with suppress(OSError):  # in use, or of another account
                if time.time() - folder.stat().st_mtime < FRESH_SECONDS:
                    continue
                with (folder / LOCK).open("a") as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder)
