"""A diffusers network as a folder: written atomically, read frozen in fp32."""

from pathlib import Path
from typing import TypeVar

import torch
from diffusers.models.modeling_utils import ModelMixin

from distillation.resumable import atomic
from distillation.training import processes
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
