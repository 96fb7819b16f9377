"""A device that can be broken from outside: in generation workers `Pipeline.generate` first reads a file.

The folder is in CHAOS_DEVICES, the file has the worker's name, and its word is one of WORDS. No file: a sound device.
A second file, `.felt`, says that the word was obeyed.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from django.apps import AppConfig

WORDS = ("raise-once", "raise", "hang", "slow")
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


def _wrap(file: Path) -> None:
    from generation.engine.pipeline import Pipeline

    generate = Pipeline.generate

    def broken(self: Pipeline, *arguments: Any, **named: Any) -> Any:
        obey(file)
        return generate(self, *arguments, **named)

    Pipeline.generate = broken  # type: ignore[method-assign]


def obey(file: Path, pause: Callable[[float], None] = time.sleep) -> None:
    """Do what the file says. Raises RuntimeError as a device does."""
    word = _read(file)
    if word:
        felt(file).touch()
    if word == "raise-once":
        file.unlink(missing_ok=True)
        raise RuntimeError("The device failed once.")
    if word == "raise":
        raise RuntimeError(STICKY)
    while word == "hang":
        pause(0.2)
        word = _read(file)
    if word == "slow":
        pause(SLOW_SECONDS)


def felt(file: Path) -> Path:
    return file.with_suffix(".felt")


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except FileNotFoundError:
        return ""
