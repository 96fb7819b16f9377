"""Accepted real pictures by prompt variant: real samples of the discriminators, of pictures and of latents."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor

from distillation.resumable.progress import Bar
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

    Holds a few pictures at once. Raises OSError, ValueError for an incomplete folder.
    """
    return _read_all(folder, catalogue, lambda files: _encoded(files, teacher))


def read_pictures(folder: Path, *, catalogue: Catalogue) -> RealImages | None:
    """Return a snapshot's pictures; None if it has none. Raises OSError, ValueError for an incomplete folder."""
    return _read_all(folder, catalogue, lambda files: torch.stack([_read(file) for file in files]))


def _read_all(
    folder: Path, catalogue: Catalogue, samples: Callable[[Sequence[Path]], Tensor]
) -> RealImages | None:
    """Return the pictures that the folder lists. samples: returns the samples of files, [m, …]."""
    index = folder / EXAMPLES
    if not index.is_file():
        return None
    rows = {slug: row for row, slug in enumerate(catalogue.slugs)}
    examples = json.loads(index.read_text("utf-8"))
    files = sorted({_picture(example) for example in examples})
    places = {file: place for place, file in enumerate(files)}
    return RealImages(
        samples([folder / PICTURES / file for file in files]),
        torch.tensor([places[_picture(example)] for example in examples]),
        torch.tensor([rows[example["slug"]] for example in examples]),
    )


def _picture(example: dict[str, str]) -> str:
    return Path(example["file"]).name


@torch.no_grad()
def _encoded(files: Sequence[Path], teacher: Teacher) -> Tensor:
    """Return the latents, fp16 [m, C, h, w]: the means of the VAE's distributions."""
    found: list[Tensor] = []
    size = teacher.decoded_at_once
    parts = [files[start : start + size] for start in range(0, len(files), size)]
    for part in Bar(len(parts), title="accepted pictures", unit="batch", is_shown=False).over(
        parts
    ):
        pictures = _as_target(torch.stack([_read(file) for file in part]))
        with teacher.autocast():
            latents = image_to_latents(teacher.vae, pictures.to(teacher.device))
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
