"""Shapes of objects by their masks: how near each outline is to that of some photograph of the same object.

Masks are moved and scaled to one place and size first, so that neither counts. An outline that no photograph has, such
as that of a mug without a handle, is far from all of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from distillation.detector.segmentation import UNet
from distillation.image_metrics.perceptual_distance import fitted
from distillation.starter.photographs import Photographs
from distillation.starter.words import Combination

SIDE = 64  # pixels of a compared mask; the object's longer side fills it


@dataclass(frozen=True)
class Shapes:
    """The segmentation, and compared masks of photographs by the name of their object, bool [N, SIDE, SIDE]."""

    segmentation: UNet
    known: dict[str, Tensor]

    @staticmethod
    def of(segmentation: UNet, photographs: Photographs) -> "Shapes":
        """photographs: with their true masks."""
        masks = torch.stack([compared(mask > 0) for mask in photographs.masks])
        objects = [combination.object for combination in photographs.combinations]
        return Shapes(
            segmentation,
            {
                name: masks[[row for row, other in enumerate(objects) if other == name]]
                for name in sorted(set(objects))
            },
        )

    def nearness(self, images: Tensor, combinations: Sequence[Combination]) -> float:
        """Return the mean over pictures of the greatest intersection over union with a photograph of the object.

        images: uint8 [N, 3, height, width]; pictures of objects without a photograph are left out.
        """
        size = self.segmentation.config.image_size
        found = self.segmentation.mask_logits(fitted(images, size)) > 0
        values = [
            overlaps(compared(mask), self.known[combination.object]).max()
            for mask, combination in zip(found, combinations, strict=True)
            if combination.object in self.known
        ]
        return float(torch.stack(values).mean())


def compared(mask: Tensor) -> Tensor:
    """Return a mask, bool [H, W], cut to its object and scaled to SIDE pixels, bool [SIDE, SIDE]; empty if it is."""
    rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
    if not len(rows):
        return torch.zeros(SIDE, SIDE, dtype=torch.bool)
    cut = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].float()
    height, width = cut.shape
    scale = SIDE / max(height, width)
    size = max(1, round(height * scale)), max(1, round(width * scale))
    scaled = F.interpolate(cut[None, None], size, mode="bilinear", antialias=True)[0, 0] > 0.5
    top, left = (SIDE - size[0]) // 2, (SIDE - size[1]) // 2
    return F.pad(scaled, (left, SIDE - size[1] - left, top, SIDE - size[0] - top))


def overlaps(mask: Tensor, others: Tensor) -> Tensor:
    """Return intersection over union with each of others, fp32 [N]; also of the mask's mirror image, the greater one.

    mask: bool [SIDE, SIDE]; others: bool [N, SIDE, SIDE].
    """
    both = torch.stack([mask, mask.flip(1)])[:, None]
    shared = (both & others).sum(dim=(2, 3)).float()
    return (shared / (both | others).sum(dim=(2, 3)).clamp(min=1)).amax(0)
