"""Training state on disk: one torch file, written atomically, restored exactly.

It is read without pickled objects (`weights_only`), so loading it runs no code.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from distillation.resumable import atomic
from distillation.training.errors import CheckpointUnusable
from distillation.training.task import Progress, Task

FORMAT_VERSION = 2
FILE = "checkpoint.pt"


def save(folder: Path, task: Task, progress: Progress) -> None:
    """Replace the checkpoint in `folder`. A kill at any instant leaves the old one or the new one."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {"format_version": FORMAT_VERSION, "progress": asdict(progress), **_state(task)}
    atomic.make_file(folder / FILE, lambda new: torch.save(state, new))


def settle(folder: Path) -> None:
    """Remove incomplete files that a killed process left."""
    for left in Path(folder).glob(f".{FILE}.*"):
        left.unlink()


def _state(task: Task) -> dict[str, Any]:
    return {
        "modules": {name: module.state_dict() for name, module in task.modules.items()},
        "averages": {name: ema.module.state_dict() for name, ema in task.emas.items()},
        "updates": {name: ema.updates for name, ema in task.emas.items()},
        "optimizers": {name: part.state_dict() for name, part in task.optimizers.items()},
    }


def restore(folder: Path, task: Task) -> Progress | None:
    """Load the checkpoint in `folder` into `task`; None if there is none. Raises CheckpointUnusable.

    A checkpoint that does not fit is refused before the task is changed.
    """
    path = Path(folder) / FILE
    if not path.exists():
        return None
    try:
        state = _read(path)
        stored, present = _layout(state), _layout(_state(task))
    except (OSError, EOFError, ValueError, KeyError, RuntimeError, UnpicklingError) as error:
        raise CheckpointUnusable(path, f"cannot be read: {error}") from error
    if odd := [key for key in present | stored if stored.get(key) != present.get(key)]:
        raise CheckpointUnusable(path, f"is of another network or optimizer (see {odd[:5]})")
    for name, module in task.modules.items():
        module.load_state_dict(state["modules"][name])
    for name, ema in task.emas.items():
        ema.module.load_state_dict(state["averages"][name])
        ema.updates = state["updates"][name]
    for name, optimizer in task.optimizers.items():
        optimizer.load_state_dict(state["optimizers"][name])
    return Progress(**state["progress"])


def _read(path: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    if state["format_version"] != FORMAT_VERSION:
        raise ValueError(f"it is not of format version {FORMAT_VERSION}")
    return state


def _layout(state: Mapping[str, Any]) -> dict[tuple[str, ...], object]:
    """Return the layout that must equal the task's: shapes and dtypes of tensors, and groups of parameters."""
    found: dict[tuple[str, ...], object] = {
        (kind, name, key): (value.shape, value.dtype)
        for kind in ("modules", "averages")
        for name, tensors in state[kind].items()
        for key, value in tensors.items()
    }
    for name, optimizer in state["optimizers"].items():
        found["optimizers", name] = [group["params"] for group in optimizer["param_groups"]]
    return found
