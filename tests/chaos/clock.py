"""Clocks of the stack's processes, which the programme shifts. PostgreSQL's and Redis' stay."""

import os
import shutil
import subprocess
from datetime import timedelta
from pathlib import Path

from tests.acceptance.stack import ROOT

COMPILER = shutil.which("cc")
SOURCE = ROOT / "tests" / "chaos" / "clock.c"


def prepare(folder: Path) -> dict[str, str]:
    """Compile the library into a folder. Return the environment in which processes use it."""
    folder.mkdir(exist_ok=True)
    library = folder / "clock.so"
    command = [str(COMPILER), "-shared", "-fPIC", "-O2", "-o", str(library), str(SOURCE), "-ldl"]
    subprocess.run(command, check=True)
    return {"LD_PRELOAD": str(library), "CHAOS_CLOCKS": str(folder)}


def shift(folder: Path, process: str, by: timedelta) -> None:
    """Shift the clock of this process of the supervisor, and of all that start under its name."""
    nanoseconds = by // timedelta(microseconds=1) * 1000
    handle = os.open(folder / process, os.O_RDWR | os.O_CREAT)
    try:
        os.pwrite(handle, nanoseconds.to_bytes(8, "little", signed=True), 0)
    finally:
        os.close(handle)


def follows(folder: Path, process: str, pid: int) -> bool:
    """Return whether the running process reads its clock from the folder."""
    return str(folder / process) in Path(f"/proc/{pid}/maps").read_text()
