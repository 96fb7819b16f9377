"""Accepted real pictures as latents, by prompt variant: real samples of the discriminator."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor

from distillation.trainers.catalogue import EXAMPLES, PICTURES, Catalogue
from distillation.trainers.teacher import Teacher
from generation.engine.latents import image_to_latents


@dataclass(frozen=True)
class RealImages:
    """latents: fp16 [n, C, h, w], on the CPU; prompts: int64 [n], rows of the catalogue."""

    latents: Tensor
    prompts: Tensor

    @cached_property
    def _of_prompt(self) -> dict[int, Tensor]:
        return {int(row): (self.prompts == row).nonzero()[:, 0] for row in self.prompts.unique()}

    def mixed_into(
        self, targets: Tensor, prompts: Tensor, *, share: float, generator: Generator
    ) -> Tensor:
        """Return latents [B, C, h, w] with about this share replaced by real images of the prompt, where there are any.

        targets: the teacher's [B, C, h, w]; prompts: int64 [B], on the CPU.
        """
        mixed = targets.clone()
        for row in (torch.rand(len(prompts), generator=generator) < share).nonzero()[:, 0].tolist():
            known = self._of_prompt.get(int(prompts[row]))
            if known is not None:
                chosen = known[torch.randint(len(known), (1,), generator=generator)]
                mixed[row] = self.latents[chosen[0]].to(targets)
        return mixed


def read(folder: Path, *, teacher: Teacher, catalogue: Catalogue) -> RealImages | None:
    """Return a snapshot's pictures; None if it has none. Raises OSError, ValueError for an incomplete folder."""
    index = folder / EXAMPLES
    if not index.is_file():
        return None
    rows = {slug: row for row, slug in enumerate(catalogue.slugs)}
    examples = json.loads(index.read_text("utf-8"))
    files = sorted({_picture(example) for example in examples})
    encoded = dict(
        zip(files, _encoded([folder / PICTURES / file for file in files], teacher), strict=True)
    )
    return RealImages(
        torch.stack([encoded[_picture(example)] for example in examples]),
        torch.tensor([rows[example["slug"]] for example in examples]),
    )


def _picture(example: dict[str, str]) -> str:
    return Path(example["file"]).name


@torch.no_grad()
def _encoded(paths: list[Path], teacher: Teacher) -> list[Tensor]:
    """Return the latents of each, fp16 [C, h, w]: the mean of the VAE's distribution."""
    found: list[Tensor] = []
    for start in range(0, len(paths), teacher.decoded_at_once):
        images = torch.stack(
            [_read(path) for path in paths[start : start + teacher.decoded_at_once]]
        )
        with teacher.autocast():
            latents = image_to_latents(teacher.vae, images.to(teacher.device))
        found.extend(latents.half().cpu())
    return found


def _read(path: Path) -> Tensor:
    """Return the picture, fp32 [3, H, W] in [−1, 1]."""
    with Image.open(path, formats=["PNG"]) as image:
        pixels = np.array(image.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 127.5 - 1
