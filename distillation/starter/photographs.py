"""The photographs of a split, read from their shards."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from distillation.starter.words import COMBINATIONS, Combination


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

    def part(self, first: int, count: int) -> "Photographs":
        rows = slice(first, first + count)
        return Photographs(
            self.images[rows], self.masks[rows], self.combinations[rows], self.seeds[rows]
        )


def read(folder: Path, split: str) -> Photographs:
    """Read a split. Raises FileNotFoundError if nothing of it was rendered, ValueError if a shard cannot be read."""
    paths = sorted(folder.glob(f"{split}-[0-9]*.safetensors"))
    if not paths:
        raise FileNotFoundError(
            f"{folder} contains no photographs of the split {split!r}. Render them with `make starter`."
        )
    images, masks, numbers, seeds = [], [], [], []
    for path in paths:
        try:
            with safe_open(path, framework="pt") as shard:
                about = shard.metadata()
                images.append(shard.get_tensor("images"))
                masks.append(shard.get_tensor("masks"))
                numbers += json.loads(about["combinations"])
                seeds += json.loads(about["seeds"])
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} cannot be read ({error}). Delete it; `make starter` renders it again."
            ) from error
    return Photographs(
        images=torch.cat(images),
        masks=torch.cat(masks),
        combinations=tuple(COMBINATIONS[number] for number in numbers),
        seeds=tuple(seeds),
    )
