"""A diffusers network as a folder: written whole or not at all, read frozen in fp32. Knows no network in particular."""

from pathlib import Path
from typing import TypeVar

import torch
from diffusers.models.modeling_utils import ModelMixin

from distillation import replacing

Network = TypeVar("Network", bound=ModelMixin)


def save(network: ModelMixin, folder: Path) -> None:
    """Write config.json and the weights in safetensors, in place of a folder that is there."""
    replacing.make_folder(folder, lambda new: network.save_pretrained(new, safe_serialization=True))


def load(kind: type[Network], folder: Path) -> Network:
    """In evaluation mode, frozen, fp32. Raises OSError if the folder holds no such network.

    Raises ValueError for weights that lack a tensor: it would stay random.
    """
    network, info = kind.from_pretrained(
        folder,
        torch_dtype=torch.float32,
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
    )
    if missing := sorted(info["missing_keys"]):
        raise ValueError(f"the weights of {folder.name} lack {', '.join(missing[:3])}")
    return network.requires_grad_(False).eval()
