"""Atomic replacement of files and folders.

A kill at any instant leaves the old one or the new one, and at worst a hidden leftover next to it.
"""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

Made = TypeVar("Made")


def write_file(path: Path, content: str | bytes) -> None:
    """Replace the file. Text is written as UTF-8, with unchanged line ends."""
    data = content.encode() if isinstance(content, str) else content
    make_file(path, lambda temporary: temporary.write_bytes(data))


def make_file(path: Path, make: Callable[[Path], object]) -> None:
    """Replace `path` by the file that `make` writes at the path that it gets; nothing changes if that fails."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        make(temporary)
        _settle(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)  # else a full disk stays full
        raise


def make_folder(target: Path, make: Callable[[Path], Made]) -> Made:
    """Replace `target` by the folder that `make` writes at the path that it gets, and return the result of `make`.

    Nothing changes if that fails.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".replacing-", dir=target.parent) as temporary:
        new = Path(temporary) / target.name
        old = Path(temporary) / f"{target.name}.old"
        made = make(new)
        for path in new.rglob("*"):
            if path.is_file():
                _settle(path)
        try:
            if target.exists():
                target.rename(old)
            new.rename(target)
        except BaseException:  # Ctrl-C between the two renames too
            if old.exists() and not target.exists():
                old.rename(target)
            raise
    return made


def _settle(path: Path) -> None:
    """Sync to disk, and make readable by all: safetensors makes files that only the owner can read."""
    path.chmod(0o644)
    with path.open("rb") as file:
        os.fsync(file.fileno())
