"""Error of local texture: strength of detail around each position, by scale and direction, independent of its phase.

A decoder cannot predict each grain of wood, and a pixel loss is then minimal for a smooth surface; the strength of the
grain is predictable. After the texture loss of EnhanceNet (Sajjadi et al. 2016, arXiv 1612.07919), on differences of
pixels in place of a network's features.
"""

import torch
from torch import Tensor
from torch.nn import functional

from distillation.losses.precision import require_one_shape, wide

WINDOW = 16  # pixels per side; the stride is half of it
SCALES = 3  # the picture, its half and its quarter
FAINTEST = 1e-3  # differences below this, of values in [−1, 1], are ignored


def texture_error(output: Tensor, target: Tensor) -> Tensor:
    """Return the mean absolute difference of the strengths of detail. output, target: [B, C, H, W] in [−1, 1].

    The strength is the root mean square of the differences to the neighbours on the right, below, and on both
    diagonals, in windows; the mean is over scales, directions, channels and windows.
    """
    require_one_shape(output, target)
    ours, theirs, window = wide(output), wide(target), WINDOW
    errors = []
    for _ in range(SCALES):
        errors += [
            (our - their).abs().mean()
            for our, their in zip(_strengths(ours, window), _strengths(theirs, window), strict=True)
        ]
        ours, theirs = functional.avg_pool2d(ours, 2), functional.avg_pool2d(theirs, 2)
        window //= 2
    return torch.stack(errors).mean()


def _strengths(images: Tensor, window: int) -> list[Tensor]:
    """Return the strength in each window, by direction: [B, C, rows, columns] of each."""
    corner = images[..., :-1, :-1]
    differences = (
        images[..., :-1, 1:] - corner,
        images[..., 1:, :-1] - corner,
        images[..., 1:, 1:] - corner,
        images[..., 1:, :-1] - images[..., :-1, 1:],
    )
    size = min(window, *corner.shape[-2:])
    return [
        (functional.avg_pool2d(part.square(), size, max(1, size // 2)) + FAINTEST**2).sqrt()
        for part in differences
    ]
