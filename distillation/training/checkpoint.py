"""Training state on disk: written whole or not at all, restored exactly.

`checkpoint/` holds `modules.safetensors` (networks and averages), `optimizers.safetensors` and `checkpoint.json`. It is
written as `checkpoint.new/`, then swapped in by two renames; a kill between these leaves a complete `checkpoint.new/`
and no `checkpoint/`, which `settle` puts right: before `restore`, and by one process alone.
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from distillation.resumable import atomic
from distillation.training.errors import CheckpointUnusable
from distillation.training.task import Progress, Task

FORMAT_VERSION = 1
FOLDER = "checkpoint"
NEW, OLD = f"{FOLDER}.new", f"{FOLDER}.old"
MODULES = "modules.safetensors"
OPTIMIZERS = "optimizers.safetensors"
INDEX = "checkpoint.json"


# --- writing --------------------------------------------------------------------------------------
def save(folder: Path, task: Task, progress: Progress) -> None:
    """Replace the checkpoint in `folder`. A kill at any instant leaves the old one or the new one."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    settle(folder)
    new = folder / NEW
    new.mkdir()
    tensors, settings = _optimizer_states(task)
    _write_tensors(new / MODULES, _module_tensors(task))
    _write_tensors(new / OPTIMIZERS, tensors)
    index = {
        "format_version": FORMAT_VERSION,
        "step": progress.step,
        "steps": progress.steps,
        "seconds": progress.seconds,
        "ema_updates": {name: ema.updates for name, ema in task.emas.items()},
        "optimizers": settings,
    }
    atomic.write_file(new / INDEX, json.dumps(index, indent=1) + "\n")
    _sync_folder(new)
    if (folder / FOLDER).exists():
        (folder / FOLDER).rename(folder / OLD)
    new.rename(folder / FOLDER)
    _sync_folder(folder)
    shutil.rmtree(folder / OLD, ignore_errors=True)


def _module_tensors(task: Task) -> dict[str, torch.Tensor]:
    """Return the networks as `module/NAME/…`, their averages as `ema/NAME/…`."""
    tensors = {}
    averages = {name: ema.module for name, ema in task.emas.items()}
    for kind, modules in (("module", task.modules), ("ema", averages)):
        for name, module in modules.items():
            for key, value in module.state_dict().items():
                tensors[f"{kind}/{name}/{key}"] = value
    return tensors


def _optimizer_states(task: Task) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return tensors as `NAME/INDEX/KEY`, and what else there is (learning rates, counters) as JSON values."""
    tensors: dict[str, torch.Tensor] = {}
    settings: dict[str, Any] = {}
    for name, optimizer in task.optimizers.items():
        state = optimizer.state_dict()
        scalars: dict[str, dict[str, Any]] = {}
        for index, values in state["state"].items():
            for key, value in values.items():
                if isinstance(value, torch.Tensor):
                    tensors[f"{name}/{index}/{key}"] = value
                else:
                    scalars.setdefault(str(index), {})[key] = value
        settings[name] = {"groups": state["param_groups"], "scalars": scalars}
    return tensors, settings


def _plain(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return tensors as the format takes them: not in another order (channels-last), not sharing memory (tied weights).

    Copies are made of such tensors alone: the state of a large training fills the memory already.
    """
    plain: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, value in tensors.items():
        value = value.detach().to("cpu").contiguous()
        place = value.untyped_storage().data_ptr()
        plain[name] = value.clone() if place in seen else value
        seen.add(place)
    return plain


def _write_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    atomic.make_file(path, lambda new: save_file(_plain(tensors), new))


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def settle(folder: Path) -> None:
    """Put `checkpoint/` in its place after a kill, and clear away what was half written."""
    current, new, old = folder / FOLDER, folder / NEW, folder / OLD
    if not current.exists():
        if (new / INDEX).exists():  # written last, so `new` is complete
            new.rename(current)
        elif old.exists():
            old.rename(current)
    for left in (new, old):
        shutil.rmtree(left, ignore_errors=True)


# --- reading --------------------------------------------------------------------------------------
def restore(folder: Path, task: Task) -> Progress | None:
    """Load the checkpoint in `folder`, which is settled, into `task`; None if there is none. Raises CheckpointUnusable.

    A checkpoint that does not fit is refused before the task is touched.
    """
    current = Path(folder) / FOLDER
    if not current.exists():
        return None
    index = _read_index(current / INDEX)
    tensors = _read_tensors(current / MODULES)
    states = _read_tensors(current / OPTIMIZERS)
    _check_modules(current / MODULES, tensors, _module_tensors(task))
    _check_names(current / INDEX, "averages", index["ema_updates"], task.emas)
    _check_names(current / INDEX, "optimizers", index["optimizers"], task.optimizers)
    loaded = {
        name: _state_dict(current / INDEX, name, optimizer, index["optimizers"][name], states)
        for name, optimizer in task.optimizers.items()
    }
    averages = {name: ema.module for name, ema in task.emas.items()}
    for kind, modules in (("module", task.modules), ("ema", averages)):
        for name, module in modules.items():
            start = f"{kind}/{name}/"
            module.load_state_dict(
                {key.removeprefix(start): tensors[key] for key in tensors if key.startswith(start)}
            )
    for name, ema in task.emas.items():
        ema.updates = index["ema_updates"][name]
    for name, optimizer in task.optimizers.items():
        optimizer.load_state_dict(loaded[name])
        _lay_out_like_parameters(optimizer)
    return Progress(index["step"], index["steps"], index["seconds"])


def _read_index(path: Path) -> dict[str, Any]:
    try:
        index = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise CheckpointUnusable(path, "is missing") from None
    except (OSError, ValueError) as error:
        raise CheckpointUnusable(path, f"cannot be read: {error}") from error
    if not isinstance(index, dict) or index.get("format_version") != FORMAT_VERSION:
        raise CheckpointUnusable(path, f"is not of format version {FORMAT_VERSION}")
    expected = {"format_version", "step", "steps", "seconds", "ema_updates", "optimizers"}
    if index.keys() != expected:
        odd = ", ".join(sorted(index.keys() ^ expected))
        raise CheckpointUnusable(path, f"lacks fields or has unknown ones: {odd}")
    return index


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except FileNotFoundError:
        raise CheckpointUnusable(path, "is missing") from None
    except (OSError, SafetensorError) as error:
        raise CheckpointUnusable(path, f"cannot be read: {error}") from error


def _check_modules(
    path: Path, stored: Mapping[str, torch.Tensor], present: Mapping[str, torch.Tensor]
) -> None:
    _check_names(path, "tensors", stored, present)
    for key, value in present.items():
        if stored[key].shape != value.shape or stored[key].dtype != value.dtype:
            raise CheckpointUnusable(
                path,
                f"holds {key} as {tuple(stored[key].shape)} {stored[key].dtype}, "
                f"the network has it as {tuple(value.shape)} {value.dtype}",
            )


def _check_names(
    path: Path, what: str, stored: Mapping[str, Any], present: Mapping[str, Any]
) -> None:
    if stored.keys() != present.keys():
        odd = ", ".join(sorted(stored.keys() ^ present.keys())[:5])
        raise CheckpointUnusable(path, f"does not hold the {what} that are trained (see {odd})")


def _state_dict(
    path: Path,
    name: str,
    optimizer: torch.optim.Optimizer,
    settings: dict[str, Any],
    states: Mapping[str, torch.Tensor],
) -> dict[str, Any]:
    """Return what `optimizer.load_state_dict` takes."""
    present = optimizer.state_dict()["param_groups"]
    groups = settings["groups"]
    if [group["params"] for group in groups] != [group["params"] for group in present]:
        raise CheckpointUnusable(path, f"has other groups of parameters for the optimizer {name}")
    for group, now in zip(groups, present, strict=True):
        for key in group:
            if isinstance(now.get(key), tuple):  # JSON knows lists only
                group[key] = tuple(group[key])
    state: dict[int, dict[str, Any]] = {}
    for number, values in settings["scalars"].items():
        state.setdefault(int(number), {}).update(values)
    for key, value in states.items():
        owner, number, field = key.rsplit("/", 2)
        if owner == name:
            state.setdefault(int(number), {})[field] = value
    return {"state": state, "param_groups": groups}


def _lay_out_like_parameters(optimizer: torch.optim.Optimizer) -> None:
    """Give moments their parameter's order in memory: other loops over the same numbers may round otherwise."""
    for parameter, values in optimizer.state.items():
        for key, value in values.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                values[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
