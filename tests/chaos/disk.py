"""A small disk for PostgreSQL, whose free space the tests take away. Only root may mount it."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from tests.chaos.servers import Repeating


class SmallDisk:
    """A tmpfs at a folder, as a context manager."""

    def __init__(self, folder: Path, *, megabytes: int) -> None:
        self.folder = folder
        self._size = megabytes << 20

    def __enter__(self) -> "SmallDisk":
        self.folder.mkdir(parents=True, exist_ok=True)
        if os.path.ismount(self.folder):  # of a programme that was killed
            self._unmount()
        _mount("-t", "tmpfs", "-o", f"size={self._size}", "tmpfs", str(self.folder))
        return self

    def __exit__(self, *_: object) -> None:
        self._unmount()

    def _unmount(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.folder)], check=True)

    @contextmanager
    def full(self) -> Iterator[None]:
        """Leave no free space, also none that PostgreSQL frees, until the end."""
        self.fill()
        filling = Repeating(self.fill, 0.2)
        try:
            yield
        finally:
            filling.stop()
            self._resize(self._size)

    def fill(self) -> None:
        """Shrink the disk to the used space, unless more is used meanwhile."""
        seen = os.statvfs(self.folder)
        used = seen.f_blocks - seen.f_bfree
        if seen.f_bfree and used:  # 0 would mean no limit
            with suppress(subprocess.CalledProcessError):
                self._resize(used * seen.f_frsize)

    def _resize(self, size: int) -> None:
        _mount("-o", f"remount,size={size}", str(self.folder))


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True, capture_output=True)


@cache
def may_mount() -> bool:
    """Return whether this process may mount a disk."""
    if os.geteuid() != 0:
        return False
    with tempfile.TemporaryDirectory() as folder:
        try:
            with SmallDisk(Path(folder), megabytes=1):
                return True
        except (OSError, subprocess.CalledProcessError):
            return False
