"""Temporary folder in which a release or a detector is copied before it gets its name."""

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SCRATCH = ".registering-"
ABANDONED_SECONDS = 86400


@contextmanager
def scratch(root: Path) -> Iterator[Path]:
    """Yield a temporary folder in `root`. Remove those that processes left which were killed more than a day ago."""
    root.mkdir(parents=True, exist_ok=True)
    for left in root.glob(f"{SCRATCH}*"):
        with suppress(FileNotFoundError):  # another process is removing it
            if time.time() - left.stat().st_mtime > ABANDONED_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=root) as temporary:
        yield Path(temporary)
