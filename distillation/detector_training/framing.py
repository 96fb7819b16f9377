"""Random shifts and zooms of photographs and their masks, which cut objects off and vary their size."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor


@dataclass(frozen=True)
class Framing:
    """moved: share of the images that are shifted and zoomed; the others are at most mirrored."""

    moved: float = 0.7
    shift: float = 0.6  # of the image's side, each way
    nearest: float = 0.5  # least side of the visible area ÷ side of the image; at 0.5 objects look twice as large
    farthest: float = 1.9
    beyond: float = 0.5  # share of batches padded by replicating the border, not by reflection

    def __call__(self, images: Tensor, maps: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        """Return framed copies of both. images: float [N, 3, H, W]; maps: float [N, C, h, w], resampled by nearest."""
        count = len(images)
        mirrored = torch.rand(count, 1, 1, 1, generator=generator) < 0.5
        images = torch.where(mirrored, images.flip(-1), images)
        maps = torch.where(mirrored, maps.flip(-1), maps)
        chosen = (torch.rand(count, generator=generator) < self.moved).nonzero()[:, 0]
        draws = torch.rand(count, 3, generator=generator)[chosen]
        is_drawn_out = float(torch.rand((), generator=generator)) < self.beyond
        if not len(chosen):
            return images, maps
        theta = torch.zeros(len(chosen), 2, 3)
        side = self.nearest * (self.farthest / self.nearest) ** draws[:, 0]
        theta[:, 0, 0] = theta[:, 1, 1] = side
        theta[:, :, 2] = 2 * self.shift * (2 * draws[:, 1:] - 1)  # the grid spans −1 … 1
        padding = "border" if is_drawn_out else "reflection"
        return (
            _seen(images, chosen, theta, mode="bilinear", padding=padding),
            _seen(maps, chosen, theta, mode="nearest", padding=padding),
        )


def _seen(values: Tensor, chosen: Tensor, theta: Tensor, *, mode: str, padding: str) -> Tensor:
    grid = F.affine_grid(theta, [len(chosen), *values.shape[1:]], align_corners=False)
    seen = F.grid_sample(values[chosen], grid, mode=mode, padding_mode=padding, align_corners=False)
    return values.index_copy(0, chosen, seen)
