"""A diffusers network as a folder, written atomically and read frozen in fp32; and the precision of passes on a CPU."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

import torch
from diffusers.models.modeling_utils import ModelMixin

from distillation.resumable import atomic
from distillation.training import processes
from generation.engine.device import cpu_has_bf16
from generation.engine.networks import load_stock

Network = TypeVar("Network", bound=ModelMixin)


def save(network: ModelMixin, folder: Path) -> None:
    """Write config.json and the weights in safetensors, replacing an existing folder.

    Only the main process writes; the others wait for it.
    """
    if processes.is_main():
        atomic.make_folder(
            folder, lambda new: network.save_pretrained(new, safe_serialization=True)
        )
    processes.barrier()


def load(kind: type[Network], folder: Path) -> Network:
    """Load a network in evaluation mode, frozen, fp32. Raises OSError if the folder contains no such network.

    Raises ValueError if the weights lack a tensor, which would stay random.
    """
    loaded: Network = load_stock(kind, folder, torch.float32)
    return loaded


def autocast(*, is_bf16: bool) -> AbstractContextManager[object]:
    """Return the context of passes on the CPU: in bf16 if requested and the CPU has its instructions, else in fp32.

    Without them torch emulates bf16 in a hundred times the time of fp32.
    """
    return torch.autocast("cpu", torch.bfloat16, enabled=is_bf16 and cpu_has_bf16())
