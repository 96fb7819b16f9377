"""Texture of pictures without a network: energies of edges and details by scale and region, and distances of these.

Unlike the features of a CLIP, these change clearly when a picture is blurred. They measure how much detail each part of
a picture has, not what it shows.
"""

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from distillation.image_metrics import distances
from distillation.image_metrics.distances import Interval, Measure, gaussian
from distillation.image_metrics.sharpness import luma

SCALES = 3  # each half as large as the one before
REGIONS = 4  # a side
FLOOR = 1.0  # levels; much weaker detail counts as flat
MIN_SIDE = 2 ** (SCALES - 1) * (REGIONS + 2)  # pixels: a region of one pixel at the last scale
MEASURE = Measure(partial(gaussian, sigma=1.0), 1000)


def features(images: Tensor) -> Tensor:
    """Return log energies, fp32 [N, SCALES · 2 · REGIONS²]. images: RGB [N, 3, height, width], 0 … 255.

    At each scale and in each region: the logarithm of FLOOR plus the mean magnitude of the gradient, and of the
    Laplacian, both of the luma in levels. Raises ValueError for pictures smaller than MIN_SIDE.
    """
    values = luma(images)[:, None]
    if min(values.shape[2:]) < MIN_SIDE:
        raise ValueError(f"Pictures have {MIN_SIDE} pixels a side or more, not {images.shape[2:]}.")
    found = []
    for scale in range(SCALES):
        if scale:
            values = functional.avg_pool2d(values, 2)
        inner = values[:, :, 1:-1, 1:-1]
        right, below = values[:, :, 1:-1, 2:], values[:, :, 2:, 1:-1]
        sides = right + below + values[:, :, 1:-1, :-2] + values[:, :, :-2, 1:-1]
        edges = ((right - inner).square() + (below - inner).square()).sqrt()
        for energy in (edges, (sides - 4 * inner).abs()):
            means = functional.adaptive_avg_pool2d(energy, REGIONS)
            found.append((FLOOR + means).log().flatten(1))
    return torch.cat(found, dim=1)


def distance(x: Tensor, y: Tensor) -> Interval:
    """Return the distance of two sets that share no noise, × 1000. x, y: features (n, d), (m, d); y: the reference."""
    x, y = (_standardised(values, y) for values in (x, y))
    return distances.bootstrap(x, y, MEASURE)


def paired_distance(x: Tensor, y: Tensor) -> Interval:
    """Return the distance of pictures of the same prompts and seeds, × 1000. x, y: features [P, S, d]; y: reference."""
    reference = y.flatten(0, 1)
    x, y = (_standardised(values, reference) for values in (x, y))
    return distances.paired_bootstrap(x, y, MEASURE)


def _standardised(values: Tensor, reference: Tensor) -> Tensor:
    """Return features in standard deviations of the reference (m, d), ÷ √d: two of its pictures are about √2 apart."""
    spread = reference.std(0).clamp(min=1e-3)
    return (values - reference.mean(0)) / spread / reference.shape[1] ** 0.5
