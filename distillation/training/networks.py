"""A diffusers network as a folder: written whole or not at all, read frozen in fp32."""

from pathlib import Path
from typing import TypeVar

import torch
from diffusers.models.modeling_utils import ModelMixin

from distillation.resumable import atomic
from distillation.training import processes
from generation.engine.networks import load_stock

Network = TypeVar("Network", bound=ModelMixin)


def save(network: ModelMixin, folder: Path) -> None:
    """Write config.json and the weights in safetensors, in place of a folder that is there.

    Of several processes the main one writes; all go on when it has.
    """
    if processes.is_main():
        atomic.make_folder(
            folder, lambda new: network.save_pretrained(new, safe_serialization=True)
        )
    processes.barrier()


def load(kind: type[Network], folder: Path) -> Network:
    """Load a network in evaluation mode, frozen, fp32. Raises OSError if the folder holds no such network.

    Raises ValueError for weights that lack a tensor: it would stay random.
    """
    loaded: Network = load_stock(kind, folder, torch.float32)
    return loaded
