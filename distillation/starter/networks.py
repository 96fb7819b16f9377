"""A diffusers network as a folder: written whole or not at all, read frozen in fp32. Knows no network in particular."""

import os
import shutil
from pathlib import Path
from typing import TypeVar

import torch
from diffusers.models.modeling_utils import ModelMixin

Network = TypeVar("Network", bound=ModelMixin)


def save(network: ModelMixin, folder: Path) -> None:
    """Write config.json and the weights in safetensors, in place of a folder that is there."""
    folder = Path(folder)
    new, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{end}") for end in ("new", "old"))
    shutil.rmtree(new, ignore_errors=True)
    network.save_pretrained(new, safe_serialization=True)
    for path in new.iterdir():
        path.chmod(0o644)  # safetensors writes for the owner alone
        with path.open("rb") as file:
            os.fsync(file.fileno())
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def load(kind: type[Network], folder: Path) -> Network:
    """In evaluation mode, frozen, fp32. Raises OSError if the folder holds no such network."""
    network = kind.from_pretrained(
        folder, torch_dtype=torch.float32, use_safetensors=True, local_files_only=True
    )
    return network.requires_grad_(False).eval()
