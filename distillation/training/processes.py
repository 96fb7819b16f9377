"""Several processes of one training: their ranks, barriers and the mean of their gradients.

`accelerate launch` starts the processes and numbers them in the environment; a single process is the main one.
Each has the same networks and the same optimisers, draws its own share of the batch, and applies the mean gradient.

GPUs: `accelerate launch --num_processes N …`. CPUs: `accelerate launch --multi_gpu --num_processes N …`, because
accelerate's `--cpu` starts one process whatever the number, unless it uses mpirun.
"""

import atexit
import functools
import os
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta

import torch
from accelerate import PartialState
from torch import Tensor, distributed

from distillation.training import allocator
from distillation.training.errors import RecipeRefused, TrainingError

# Variables in which a launcher, torch's or MPI's, gives the number of the process.
RANK_VARIABLES = ("LOCAL_RANK", "RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
PATIENCE = timedelta(days=1)  # the main process may judge pictures for hours while the others wait
MESSAGE_BYTES = 64 * 2**20  # size of a message, which is copied in memory


@functools.cache
def _state() -> PartialState:
    """Return accelerate's state. Raises TrainingError if the launcher started one process instead of several."""
    started = os.environ
    is_launched = {"ACCELERATE_MIXED_PRECISION", "MASTER_ADDR"} <= started.keys()  # for several
    if is_launched and not any(name in started for name in RANK_VARIABLES):
        raise TrainingError(
            "accelerate launch --cpu starts one process instead of several. Give --multi_gpu instead of --cpu, even "
            "without GPUs, or --num_processes 1."
        )
    is_cpu = (
        not torch.cuda.is_available() or started.get("ACCELERATE_USE_CPU", "").lower() == "true"
    )
    if is_cpu:
        allocator.keep_freed_memory()
    state = PartialState(cpu=is_cpu, timeout=PATIENCE)
    atexit.register(_leave)
    return state


def _leave() -> None:
    """End gloo's threads before the process ends; otherwise C++ sometimes aborts it."""
    # With NCCL this is not needed, and might wait for processes that have failed.
    if distributed.is_initialized() and distributed.get_backend() == "gloo":
        distributed.destroy_process_group()


def count() -> int:
    """Return how many processes train together."""
    return _state().num_processes


def rank() -> int:
    """Return the number of this process, from 0."""
    return _state().process_index


def is_main() -> bool:
    """Return whether this process writes files and draws progress bars."""
    return _state().is_main_process


def barrier() -> None:
    """Wait until all processes are here."""
    _state().wait_for_everyone()


def share(batch: int) -> int:
    """Return the size of this process's part of a batch. Raises RecipeRefused if it cannot be divided evenly."""
    if batch % count():
        raise RecipeRefused(
            f"batch: {batch} must be a multiple of the {count()} processes: give another batch, or start fewer."
        )
    return batch // count()


def device(asked: str) -> str:
    """Return the device of this process: for "auto" the one that the launcher gave it, so that each has its own."""
    return str(_state().device) if asked == "auto" and count() > 1 else asked


@torch.no_grad()
def average_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Replace each gradient by its mean over the processes."""
    if count() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    for part in _messages(gradients):
        flat = torch.cat([gradient.reshape(-1) for gradient in part])
        distributed.all_reduce(flat)
        flat /= count()
        _scatter(flat, part)


@torch.no_grad()
def spread(modules: Iterable[torch.nn.Module]) -> None:
    """Broadcast the main process's weights and buffers, so that all processes start from the same ones."""
    if count() == 1:
        return
    tensors = [tensor for module in modules for tensor in module.state_dict().values()]
    for part in _messages(tensors):
        flat = torch.cat([tensor.reshape(-1) for tensor in part])
        distributed.broadcast(flat, 0)
        _scatter(flat, part)


def _messages(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Yield tensors of one dtype grouped into messages, to save round trips; in the same order in all processes."""
    part: list[Tensor] = []
    size = 0
    for tensor in tensors:
        if part and (tensor.dtype != part[0].dtype or size + tensor.nbytes > MESSAGE_BYTES):
            yield part
            part, size = [], 0
        part.append(tensor)
        size += tensor.nbytes
    if part:
        yield part


def _scatter(flat: Tensor, tensors: list[Tensor]) -> None:
    start = 0
    for tensor in tensors:
        tensor.copy_(flat[start : start + tensor.numel()].view_as(tensor))
        start += tensor.numel()


def mean(losses: Mapping[str, float]) -> dict[str, float]:
    """Return each value's mean over the processes, so that all react alike. All must pass the same names."""
    if count() == 1:
        return dict(losses)
    names = sorted(losses)
    values = torch.tensor([losses[name] for name in names], dtype=torch.float64)
    values = values.to(_state().device)
    distributed.all_reduce(values)
    means = dict(zip(names, (values / count()).tolist(), strict=True))
    return {name: means[name] for name in losses}


def any_of(condition: bool) -> bool:
    """Return whether the condition holds in any process."""
    return mean({"": float(condition)})[""] > 0
