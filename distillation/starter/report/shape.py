"""Similarity of shapes: intersection over union (IoU) of object masks with those of photographs of the same object.

Masks are first normalised in position and size. A shape that occurs in no photograph, such as a mug without a handle,
has a low IoU with all of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from distillation.detector.network import resized
from distillation.detector.segmentation import UNet
from distillation.starter.photographs import Photographs
from distillation.starter.words import Combination

SIDE = 64  # pixels per side of a normalised mask, filled by the object's longer side


@dataclass(frozen=True)
class Shapes:
    """segmentation: predicts masks; references: normalised masks of photographs by object, bool [N, SIDE, SIDE]."""

    segmentation: UNet
    references: dict[str, Tensor]

    @staticmethod
    def of(segmentation: UNet, photographs: Photographs) -> "Shapes":
        """Return the shapes of these photographs, by their rendered masks."""
        masks = torch.stack([normalised(mask > 0) for mask in photographs.masks])
        objects = [combination.object for combination in photographs.combinations]
        return Shapes(
            segmentation,
            {
                name: masks[[row for row, other in enumerate(objects) if other == name]]
                for name in sorted(set(objects))
            },
        )

    def mean_best_iou(self, images: Tensor, combinations: Sequence[Combination]) -> float:
        """Return the mean over images of the largest IoU with a photograph of the same object, in 0 … 1.

        images: uint8 [N, 3, height, width]; images of objects without a reference are skipped.
        """
        size = self.segmentation.config.image_size
        masks = self.segmentation.mask_logits(resized(images, size)) > 0
        values = [
            iou(normalised(mask), self.references[combination.object]).max()
            for mask, combination in zip(masks, combinations, strict=True)
            if combination.object in self.references
        ]
        return float(torch.stack(values).mean())


def normalised(mask: Tensor) -> Tensor:
    """Return the mask cropped to its object, scaled and centred, bool [SIDE, SIDE]. mask: bool [H, W], may be empty."""
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


def iou(mask: Tensor, others: Tensor) -> Tensor:
    """Return the IoU of the mask or of its mirror image, the larger one, with each of `others`, fp32 [N].

    mask: bool [SIDE, SIDE]; others: bool [N, SIDE, SIDE].
    """
    mirrored = torch.stack([mask, mask.flip(1)])[:, None]  # [2, 1, SIDE, SIDE]
    intersection = (mirrored & others).sum(dim=(2, 3)).float()
    return (intersection / (mirrored | others).sum(dim=(2, 3)).clamp(min=1)).amax(0)
