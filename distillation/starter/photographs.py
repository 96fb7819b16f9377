"""Photographs of a split, read from their shards."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch.nn import functional

from distillation.starter import shards
from distillation.starter.words import COMBINATIONS, Combination

BATCH = 256  # photographs scaled at once


@dataclass(frozen=True)
class Photographs:
    """images: uint8 sRGB [N, 3, H, W]; masks: uint8 [N, H, W], 1 on the object."""

    images: torch.Tensor
    masks: torch.Tensor
    combinations: tuple[Combination, ...]
    seeds: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.combinations)

    @property
    def bits(self) -> torch.Tensor:
        """The bits of the combinations, float32 [N, 23], in the order of `words.BITS`."""
        return torch.tensor([combination.bits for combination in self.combinations]).float()

    def scaled(self, size: int) -> "Photographs":
        """Return the photographs and masks scaled to size × size pixels by area averaging."""
        if self.images.shape[-1] == size:
            return self
        images = torch.cat([_scaled(part, size) for part in self.images.split(BATCH)])
        masks = torch.cat([_scaled(part[:, None], size) for part in self.masks.split(BATCH)])
        return replace(self, images=images, masks=masks[:, 0])

    def part(self, first: int, count: int) -> "Photographs":
        """Return at most `count` photographs from index `first` on."""
        return self.take(range(first, min(first + count, len(self))))

    def take(self, rows: Sequence[int]) -> "Photographs":
        """Return the photographs of these rows."""
        chosen = torch.tensor(rows, dtype=torch.long)
        return Photographs(
            self.images[chosen],
            self.masks[chosen],
            tuple(self.combinations[row] for row in rows),
            tuple(self.seeds[row] for row in rows),
        )


def read(folder: Path, split: str) -> Photographs:
    """Read a split. Raises FileNotFoundError if there is no shard, ValueError if one cannot be read."""
    tensors, facts = shards.read(
        folder, split, tensors=("images", "masks"), facts=("combinations", "seeds")
    )
    return Photographs(
        **tensors,
        combinations=tuple(COMBINATIONS[number] for number in facts["combinations"]),
        seeds=tuple(facts["seeds"]),
    )


def _scaled(values: torch.Tensor, size: int) -> torch.Tensor:
    """Return the values averaged by area, uint8 [N, C, size, size]."""
    means = functional.interpolate(values.float(), (size, size), mode="area")
    return means.round().to(torch.uint8)
