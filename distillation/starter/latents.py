"""Latents of photographs for the training of the teacher: several views of each, encoded once and stored in shards.

Mirrored and slightly zoomed views are data augmentation. They are made from pixels, because a mirrored latent is not
the latent of the mirrored image.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from safetensors.torch import save_file
from torch import Generator, Tensor

from distillation.detector.network import as_float
from distillation.resumable import atomic
from distillation.resumable.progress import Bar
from distillation.starter import shards
from distillation.starter.words import COMBINATIONS, NUMBERS, Combination
from distillation.training import networks
from generation.engine.latents import image_to_latents

if TYPE_CHECKING:
    from distillation.starter.photographs import Photographs

SHARD = 256  # photographs; an interruption loses at most one shard
BATCH = 16


@dataclass(frozen=True)
class LatentsRecipe:
    """Views of a photograph: the image, its mirror image, and `zooms` random crops, every second one mirrored."""

    is_mirrored: bool = True
    zooms: int = 0
    most_zoom: float = 1.12  # largest factor of a crop, 1 = none; factor and position are random
    is_bf16: bool = True  # half the time; error 0.004 at a standard deviation of 1
    seed: int = 0

    @property
    def views(self) -> int:
        return 1 + self.is_mirrored + self.zooms


WHOLE = LatentsRecipe(is_mirrored=False, zooms=0)  # for validation


@dataclass(frozen=True)
class Latents:
    """values: float16 [N, views, channels, h, w], scaled for the U-Net, the whole image first; combinations: N."""

    values: Tensor
    combinations: tuple[Combination, ...]

    def __len__(self) -> int:
        return len(self.combinations)


def encode(
    recipe: LatentsRecipe,
    *,
    photographs: "Photographs",
    vae_folder: Path,
    folder: Path,
    split: str,
    progress_bar: bool,
) -> None:
    """Write the scaled means of the VAE's posterior into folder/SPLIT-NNNN.safetensors; existing shards are kept.

    The photographs are scaled to the VAE's sample size.
    """
    vae = networks.load(AutoencoderKL, vae_folder)
    photographs = photographs.scaled(vae.config.sample_size)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    title = f"latents, {split}"
    with Bar(len(photographs), title=title, unit="image", is_shown=progress_bar) as bar:
        for start in range(0, len(photographs), SHARD):
            rows = range(start, min(start + SHARD, len(photographs)))
            path = folder / f"{split}-{start // SHARD:04}.safetensors"
            if not path.exists():
                values = _encode_rows(recipe, vae, photographs.images, rows)
                combinations = [NUMBERS[photographs.combinations[row]] for row in rows]
                _write(path, values, combinations)
            bar.add(len(rows))


def read(folder: Path, split: str) -> Latents:
    """Read the latents of a split. Raises FileNotFoundError if there are none, ValueError if a shard cannot be read."""
    tensors, facts = shards.read(Path(folder), split, tensors=("latents",), facts=("combinations",))
    return Latents(tensors["latents"], tuple(COMBINATIONS[n] for n in facts["combinations"]))


@torch.inference_mode()
def _encode_rows(recipe: LatentsRecipe, vae: AutoencoderKL, images: Tensor, rows: range) -> Tensor:
    """Return the latents of all views, float16 [rows, views, channels, h, w]."""
    # The seed depends on the row alone, so that shards do not depend on each other.
    views = torch.cat(
        [
            make_views(recipe, images[row], Generator().manual_seed(recipe.seed * 1_000_003 + row))
            for row in rows
        ]
    )
    parts = []
    for part in views.split(BATCH):
        with networks.autocast(is_bf16=recipe.is_bf16):
            parts.append(image_to_latents(vae, part).half())
    latents = torch.cat(parts)
    return latents.view(len(rows), recipe.views, *latents.shape[1:])


def make_views(recipe: LatentsRecipe, image: Tensor, generator: Generator) -> Tensor:
    """Return the views of an image, float32 [views, 3, H, W] in [−1, 1]. image: uint8 [3, H, W]."""
    whole = as_float(image)
    views = [whole]
    if recipe.is_mirrored:
        views.append(whole.flip(-1))
    for number in range(recipe.zooms):
        zoomed = _zoom(whole, recipe.most_zoom, generator)
        views.append(zoomed.flip(-1) if number % 2 else zoomed)
    return torch.stack(views)


def _zoom(image: Tensor, most: float, generator: Generator) -> Tensor:
    """Return a random crop of the image enlarged by a random factor in [1, most], [3, H, W] in [−1, 1]."""
    factor = 1 + (most - 1) * torch.rand(1, generator=generator).item()
    height, width = image.shape[-2:]
    size = round(height * factor), round(width * factor)
    top = torch.randint(size[0] - height + 1, (1,), generator=generator).item()
    left = torch.randint(size[1] - width + 1, (1,), generator=generator).item()
    larger = F.interpolate(image[None], size=size, mode="bicubic", align_corners=False)[0]
    return larger[:, top : top + height, left : left + width].clamp(-1, 1)


def _write(path: Path, values: Tensor, combinations: list[int]) -> None:
    about = {"combinations": json.dumps(combinations)}
    atomic.make_file(path, lambda new: save_file({"latents": values}, new, about))
