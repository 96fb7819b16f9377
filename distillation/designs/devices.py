"""Devices on which designs are measured: those of this machine, and those of the live workers. Imports no torch."""

import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import structlog
from django.conf import settings

from distillation.design.limits import AUTO, LimitRefused
from generation.infra import heartbeat

log = structlog.get_logger(__name__)

QUEUE = "distillation"
CPU = "cpu"
FILES = ("nvidia[0-9]*", "dxg", "kfd")  # in /dev: devices of NVIDIA, of WSL, of ROCm
LIST = "from distillation.design import costs; print(*costs.present())"


@cache
def present() -> tuple[str, ...]:
    """Return the names of this machine's devices, by `design.costs.present`."""
    if sys.platform != "darwin" and not any(list(Path("/dev").glob(name)) for name in FILES):
        return (CPU,)
    # In a process of its own: torch takes some hundred MB, which an idle worker does not need.
    done = subprocess.run(
        [sys.executable, "-c", LIST],
        cwd=settings.BASE_DIR,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        log.warning("devices_not_listed", error=done.stderr.strip()[-500:])
        return (CPU,)
    return tuple(done.stdout.split())


def measured_on(devices: Sequence[str]) -> list[str]:
    """Return the values of a design's device that a machine with these devices can measure."""
    return [AUTO, *devices, *(["cuda"] if "cuda:0" in devices else [])]


def check_reported(device: str) -> None:
    """Raise LimitRefused, which lists the devices of the live distillation workers, unless one of them has it."""
    rows = heartbeat.alive().filter(queue=QUEUE).values_list("devices", flat=True)
    found = sorted({CPU}.union(*rows))  # of which each machine has one
    if device not in measured_on(found):
        raise LimitRefused(
            "time",
            f"no live distillation worker has a device {device!r}. There are {', '.join(found)}. Name one of them, or "
            "start a worker on a machine with that device.",
        )
