"""Accepted real pictures by prompt variant: real samples of the discriminators, of pictures and of latents."""

import json
from dataclasses import dataclass, replace
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
    """samples: on the CPU, latents (fp16 [m, C, h, w]) or pictures (uint8 [m, 3, H, W]); which: int64 [n], rows of
    samples; prompts: int64 [n], rows of the catalogue. A picture may illustrate several prompts.
    """

    samples: Tensor
    which: Tensor
    prompts: Tensor

    @cached_property
    def _of_prompt(self) -> dict[int, Tensor]:
        return {int(row): self.which[self.prompts == row] for row in self.prompts.unique()}

    def mixed_into(
        self, targets: Tensor, prompts: Tensor, *, share: float, generator: Generator
    ) -> Tensor:
        """Return latents or pictures with about this share replaced by real ones of the prompt, where there are any.

        targets: the teacher's, [B, C, h, w] or [B, 3, H, W] in [−1, 1]; prompts: int64 [B], on the CPU.
        """
        mixed = targets.clone()
        for row in (torch.rand(len(prompts), generator=generator) < share).nonzero()[:, 0].tolist():
            known = self._of_prompt.get(int(prompts[row]))
            if known is not None:
                chosen = known[torch.randint(len(known), (1,), generator=generator)]
                mixed[row] = _as_target(self.samples[chosen[0]]).to(targets)
        return mixed


def read_latents(folder: Path, *, teacher: Teacher, catalogue: Catalogue) -> RealImages | None:
    """Return a snapshot's pictures as the VAE encodes them; None if it has none.

    Raises OSError, ValueError for an incomplete folder.
    """
    found = read_pictures(folder, catalogue=catalogue)
    return None if found is None else replace(found, samples=_encoded(found.samples, teacher))


def read_pictures(folder: Path, *, catalogue: Catalogue) -> RealImages | None:
    """Return a snapshot's pictures; None if it has none. Raises OSError, ValueError for an incomplete folder."""
    index = folder / EXAMPLES
    if not index.is_file():
        return None
    rows = {slug: row for row, slug in enumerate(catalogue.slugs)}
    examples = json.loads(index.read_text("utf-8"))
    files = sorted({_picture(example) for example in examples})
    places = {file: place for place, file in enumerate(files)}
    return RealImages(
        torch.stack([_read(folder / PICTURES / file) for file in files]),
        torch.tensor([places[_picture(example)] for example in examples]),
        torch.tensor([rows[example["slug"]] for example in examples]),
    )


def _picture(example: dict[str, str]) -> str:
    return Path(example["file"]).name


@torch.no_grad()
def _encoded(pictures: Tensor, teacher: Teacher) -> Tensor:
    """Return the latents, fp16 [m, C, h, w]: the means of the VAE's distributions."""
    found: list[Tensor] = []
    for part in pictures.split(teacher.decoded_at_once):
        with teacher.autocast():
            latents = image_to_latents(teacher.vae, _as_target(part).to(teacher.device))
        found.append(latents.half().cpu())
    return torch.cat(found)


def _read(path: Path) -> Tensor:
    """Return the picture, uint8 [3, H, W]."""
    with Image.open(path, formats=["PNG"]) as image:
        pixels = np.array(image.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _as_target(samples: Tensor) -> Tensor:
    """Return latents as they are, pictures in fp32 in [−1, 1]."""
    return samples.float() / 127.5 - 1 if samples.dtype == torch.uint8 else samples
