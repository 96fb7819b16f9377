"""Training state on disk: one file of torch, written whole or not at all, restored exactly.

It is read without pickled objects (`weights_only`), so loading it runs no code.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from distillation.resumable import atomic
from distillation.training.errors import CheckpointUnusable
from distillation.training.task import Progress, Task

FORMAT_VERSION = 2
FILE = "checkpoint.pt"
FOLDER = "checkpoint"  # of format version 1


def save(folder: Path, task: Task, progress: Progress) -> None:
    """Replace the checkpoint in `folder`. A kill at any instant leaves the old one or the new one."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {"format_version": FORMAT_VERSION, "progress": asdict(progress), **_state(task)}
    atomic.make_file(folder / FILE, lambda new: torch.save(state, new))
    shutil.rmtree(folder / FOLDER, ignore_errors=True)


def settle(folder: Path) -> None:
    """Remove what a killed process left half written."""
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

    A checkpoint that does not fit is refused before the task is touched.
    """
    path, before = Path(folder) / FILE, Path(folder) / FOLDER
    if not path.exists() and not before.exists():
        return None
    path = path if path.exists() else before
    try:
        state = _read_folder(path) if path == before else _read(path)
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
    """Return what must agree with the task: the tensors' shapes and types, and the groups of parameters."""
    found: dict[tuple[str, ...], object] = {
        (kind, name, key): (value.shape, value.dtype)
        for kind in ("modules", "averages")
        for name, tensors in state[kind].items()
        for key, value in tensors.items()
    }
    for name, optimizer in state["optimizers"].items():
        found["optimizers", name] = [group["params"] for group in optimizer["param_groups"]]
    return found


def _read_folder(folder: Path) -> dict[str, Any]:
    """Read a checkpoint of format version 1: a JSON index and two files of safetensors."""
    index = json.loads((folder / "checkpoint.json").read_text("utf-8"))
    state: dict[str, Any] = {
        "progress": {name: index[name] for name in ("step", "steps", "seconds")},
        "updates": index["ema_updates"],
        "optimizers": {
            name: {"state": {}, "param_groups": part["groups"]}
            for name, part in index["optimizers"].items()
        },
        "modules": {},
        "averages": {},
    }
    try:
        networks = load_file(folder / "modules.safetensors")
        moments = load_file(folder / "optimizers.safetensors")
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    for key, value in networks.items():
        kind, name, tensor = key.split("/", 2)
        place = state["modules" if kind == "module" else "averages"]
        place.setdefault(name, {})[tensor] = value
    for key, value in moments.items():
        name, number, field = key.rsplit("/", 2)
        state["optimizers"][name]["state"].setdefault(int(number), {})[field] = value
    return state
