"""A device with faults that are set from outside: in generation workers `Pipeline.generate` first reads a file.

The folder is in CHAOS_DEVICES, the file has the worker's name and contains one of MODES. Without it the device works.
A second file, `.felt`, shows that the mode took effect. `die` is no fault of the device: the worker is killed at a
random moment around the COMMIT of its next batch.
"""

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from django.apps import AppConfig
from django.db.backends.signals import connection_created

MODES = ("raise-once", "raise", "hang", "slow", "die")
DIES_WITHIN_SECONDS = (
    0.03  # of the statement that completes a batch: before, during or after its COMMIT
)
FOLDER = "CHAOS_DEVICES"
STICKY = "CUDA error: an illegal memory access was encountered"
SLOW_SECONDS = 1.0


class Device(AppConfig):
    name = "tests.chaos.device"
    label = "chaos_device"

    def ready(self) -> None:
        worker = os.environ.get("WORKER_NAME", "")
        if worker.startswith("generation-") and (folder := os.environ.get(FOLDER)):
            _wrap(Path(folder) / worker)
            _kill_at_commit(Path(folder) / worker)


def _wrap(file: Path) -> None:
    from generation.engine.pipeline import Pipeline

    generate = Pipeline.generate

    def broken(self: Pipeline, *arguments: Any, **named: Any) -> Any:
        apply_mode(file)
        return generate(self, *arguments, **named)

    Pipeline.generate = broken  # type: ignore[method-assign]


def _kill_at_commit(file: Path) -> None:
    """Kill this process shortly after it has sent the statement that completes a batch."""

    def wrapper(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        result = execute(sql, params, many, context)
        if "'succeeded'" in sql and "UPDATE" in sql and _read(file) == "die":
            effect_file(file).touch()
            kill = (os.getpid(), signal.SIGKILL)
            threading.Timer(random.uniform(0, DIES_WITHIN_SECONDS), os.kill, kill).start()
        return result

    def connected(connection: Any, **_: Any) -> None:
        connection.execute_wrappers.append(wrapper)

    connection_created.connect(connected, weak=False)


def apply_mode(file: Path, pause: Callable[[float], None] = time.sleep) -> None:
    """Apply the mode in the file. Raises RuntimeError as a device does."""
    mode = _read(file)
    if mode and mode != "die":
        effect_file(file).touch()
    if mode == "raise-once":
        file.unlink(missing_ok=True)
        raise RuntimeError("The device failed once.")
    if mode == "raise":
        raise RuntimeError(STICKY)
    while mode == "hang":
        pause(0.2)
        mode = _read(file)
    if mode == "slow":
        pause(SLOW_SECONDS)


def effect_file(file: Path) -> Path:
    return file.with_suffix(".felt")


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except FileNotFoundError:
        return ""
