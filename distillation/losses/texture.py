"""Error of local texture: how strong the detail is around each place, by scale and direction, whatever its phase.

Where a decoder cannot know each grain of wood, a mean of errors is least for a smooth surface; the strength of the
grain it can know. After the texture loss of EnhanceNet (Sajjadi et al. 2016, arXiv 1612.07919), on differences of
pixels in place of a network's features.
"""

import torch
from torch import Tensor
from torch.nn import functional

from distillation.losses.precision import require_one_shape, wide

WINDOW = 16  # pixels a side of the picture; half of it lies between two windows
SCALES = 3  # the picture, its half and its quarter
FAINTEST = 1e-3  # differences below it do not matter, of values in [−1, 1]


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
