"""Measured subjects in separate processes, called in turns, so that only one computes; memory of a process."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
QUIET = {
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    "PYTHONWARNINGS": "ignore::FutureWarning",  # about names that only older diffusers has
}


@dataclass(frozen=True)
class Memory:
    """Resident bytes of a process: now, and at its peak (None if the system does not report it)."""

    resident: int
    peak: int | None

    def __str__(self) -> str:
        peak = "" if self.peak is None else f" (peak {self.peak / 2**20:.0f})"
        return f"{self.resident / 2**20:.0f} MiB{peak}"

    def plain(self) -> dict[str, Any]:
        return asdict(self)


def memory(pid: int) -> Memory:
    """Return the memory of a process. VmHWM is the peak since exec, unlike that of getrusage."""
    resident, peak = psutil.Process(pid).memory_info().rss, None
    status = Path(f"/proc/{pid}/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        # The kernel counts both approximately.
        peak = max(resident, 1024 * int(lines["VmHWM"].split()[0]))
    return Memory(resident, peak)


class Process:
    """A loaded `tests.bench.subject`. Use as a context manager."""

    def __init__(self, kind: str, *arguments: object) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.subject", kind, *map(str, arguments)],
            cwd=ROOT,
            env={**os.environ, **QUIET},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.load_seconds = float(self._answer()["load_seconds"])

    def images(self, count: int, *, batch: int, steps: int) -> dict[str, Any]:
        assert self._process.stdin
        order = {"images": count, "batch": batch, "steps": steps}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def memory(self) -> Memory:
        return memory(self._process.pid)

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the measured process ended with {self._process.wait()}")
        return json.loads(line)

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()  # the end of stdin ends it
