"""Distances between two sets of features, and between two pictures.

The distance between sets is the maximum mean discrepancy, MMD² (Gretton et al. 2012). Its unbiased estimate does not
need thousands of pictures, unlike FID, and is 0 on average for two samples of one distribution, so it may be negative.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from distillation.image_metrics.sharpness import luma

Kernel = Callable[[Tensor, Tensor], Tensor]  # (n, d), (m, d) → (n, m)
CMMD_SIGMA = 10.0
CONFIDENCE = 0.95
RESAMPLES = 1000
WINDOW = 11  # pixels, of SSIM


class Interval(NamedTuple):
    """A value and the ends of its interval at CONFIDENCE."""

    value: float
    low: float
    high: float


def polynomial(x: Tensor, y: Tensor) -> Tensor:
    """Return (x·y ÷ d + 1)³, the kernel of KID (Bińkowski et al. 2018)."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def gaussian(x: Tensor, y: Tensor, *, sigma: float = CMMD_SIGMA) -> Tensor:
    """Return exp(−‖x − y‖² ÷ 2σ²), the kernel of CMMD (Jayasumana et al. 2024)."""
    squares = (x**2).sum(1, keepdim=True) + (y**2).sum(1) - 2 * x @ y.T
    return torch.exp(-squares.clamp(min=0) / (2 * sigma**2))


@dataclass(frozen=True)
class Measure:
    """scale × the unbiased estimate of MMD² (Gretton et al. 2012, eq. 3), of features (n, d) and (m, d) of two sets."""

    kernel: Kernel
    scale: float = 1.0

    def __call__(self, x: Tensor, y: Tensor) -> float:
        grams = _grams(x, y, self.kernel)
        weights = [torch.ones(1, len(features), dtype=torch.float64) for features in (x, y)]
        return self.scale * float(_weighted(grams, *weights))


KID_1000 = Measure(polynomial, 1000)
CMMD = Measure(gaussian, 1000)


def bootstrap(
    x: Tensor,
    y: Tensor,
    measure: Measure,
) -> Interval:
    """Return the measure and its percentile interval by a bootstrap over both sets, the same at each call.

    A picture drawn twice is not compared with itself: that would bias every resample by more than the distance of two
    sets of real pictures. A resample of a single picture has no estimate and is left out. The features are not scaled:
    give features of length 1 for CMMD.
    """
    grams = _grams(x, y, measure.kernel)
    generator = torch.Generator().manual_seed(0)
    weights = [_counts(len(features), generator) for features in (x, y)]
    values = measure.scale * _weighted(grams, *weights)
    return Interval(measure(x, y), *ends(values))


@dataclass(frozen=True)
class Distance:
    """The distance of two sets of pictures, with bootstrap intervals; kid and cmmd are both × 1000."""

    sizes: tuple[int, int]
    kid: Interval
    cmmd: Interval


def distance(x: Tensor, y: Tensor) -> Distance:
    """Return the distance of two sets that share no noise. x, y: features (n, d) and (m, d) of length 1.

    KID uses them at length √d, where its x·y ÷ d is their cosine: at length 1 its kernel is almost linear.
    """
    root = x.shape[1] ** 0.5
    kid = bootstrap(root * x, root * y, KID_1000)
    return Distance((len(x), len(y)), kid, bootstrap(x, y, CMMD))


def paired_distance(x: Tensor, y: Tensor) -> Distance:
    """Return the distance of pictures of the same prompts and seeds. x, y: features [P, S, d] of length 1."""
    size, root = x.shape[0] * x.shape[1], x.shape[-1] ** 0.5
    kid = paired_bootstrap(root * x, root * y, KID_1000)
    return Distance((size, size), kid, paired_bootstrap(x, y, CMMD))


def paired_bootstrap(x: Tensor, y: Tensor, measure: Measure) -> Interval:
    """Return the measure of pictures of the same prompts and seeds with its percentile interval. x, y: [P, S, d].

    A picture is not compared with the one of the same noise in the other set: those two are similar whatever the
    distributions are, and would make the estimate too small (Gretton et al. 2012, lemma 6). The bootstrap draws
    prompts, because the pictures of one prompt are similar too.
    """
    if x.shape != y.shape or x.ndim != 3:
        raise ValueError(f"Features are [P, S, d], not {list(x.shape)} and {list(y.shape)}.")
    prompts, seeds, _ = x.shape
    counts = _counts(prompts, torch.Generator().manual_seed(0))
    weights = torch.cat([torch.ones(1, prompts, dtype=torch.float64), counts])
    weights = weights.repeat_interleave(seeds, dim=1)

    of_x, of_y, between = _grams(x.flatten(0, 1), y.flatten(0, 1), measure.kernel)
    across = _within(between, weights)
    values = measure.scale * (_within(of_x, weights) + _within(of_y, weights) - 2 * across)
    return Interval(float(values[0]), *ends(values[1:]))


# --- between two pictures -------------------------------------------------------------------------
def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio of each pair in dB, (n,). a, b: uint8 (n, channels, height, width)."""
    _check_pictures(a, b)
    error = ((a.double() - b.double()) ** 2).flatten(1).mean(1)
    return (10 * torch.log10(255.0**2 / error)).float()


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Return the structural similarity of the luma of each pair, −1 … 1 (Wang et al. 2004), (n,). a, b: uint8 RGB.

    The windows are Gaussian, 11 pixels wide with σ = 1.5, and inside the picture.
    """
    _check_pictures(a, b)
    if a.shape[1] != 3 or min(a.shape[2:]) < WINDOW:
        raise ValueError(f"Pictures are RGB, of {WINDOW} pixels or more, not {tuple(a.shape)}.")
    x, y = (luma(pictures)[:, None] for pictures in (a, b))
    place = torch.arange(WINDOW, dtype=torch.float32) - WINDOW // 2
    bell = torch.exp(-(place**2) / (2 * 1.5**2))
    bell = (bell / bell.sum()).view(1, 1, 1, WINDOW)

    def blurred(values: Tensor) -> Tensor:
        across = torch.nn.functional.conv2d(values, bell)
        return torch.nn.functional.conv2d(across, bell.transpose(2, 3))

    mean_x, mean_y = blurred(x), blurred(y)
    var_x, var_y = blurred(x * x) - mean_x**2, blurred(y * y) - mean_y**2
    shared = blurred(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    likeness = (2 * mean_x * mean_y + c1) * (2 * shared + c2)
    likeness /= (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    return likeness.flatten(1).mean(1)


def _check_pictures(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape or a.dtype != torch.uint8 or b.dtype != torch.uint8:
        raise ValueError(
            f"Give two uint8 batches of the same shape, not {a.dtype} {tuple(a.shape)} "
            f"and {b.dtype} {tuple(b.shape)}."
        )


# --- between two sets, for all resamples at once --------------------------------------------------
def ends(values: Tensor, *, together: int = 1) -> list[float]:
    """Return the ends of the percentile interval. A resample of a single picture has no value.

    together: number of intervals that share one probability of error.
    """
    values = values[values.isfinite()]
    tail = (1 - CONFIDENCE) / 2 / together
    return values.quantile(torch.tensor([tail, 1 - tail], dtype=values.dtype)).tolist()


def _grams(x: Tensor, y: Tensor, kernel: Kernel) -> tuple[Tensor, Tensor, Tensor]:
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"Features are (n, d) and (m, d), not {tuple(x.shape)}, {tuple(y.shape)}.")
    if min(len(x), len(y)) < 2:
        raise ValueError(f"A set has at least 2 pictures, not {len(x)} and {len(y)}.")
    if not (x.isfinite().all() and y.isfinite().all()):
        raise ValueError("The features contain values that are not finite.")
    x, y = (
        x.double(),
        y.double(),
    )  # the terms are nearly equal, so their difference needs the digits
    return kernel(x, x), kernel(y, y), kernel(x, y)


def _counts(size: int, generator: torch.Generator) -> Tensor:
    """Return how often each of `size` pictures is in each resample, (RESAMPLES, size)."""
    drawn = torch.randint(size, (RESAMPLES, size), generator=generator)
    return torch.zeros(RESAMPLES, size, dtype=torch.float64).scatter_add_(
        1, drawn, torch.ones(RESAMPLES, size, dtype=torch.float64)
    )


def _weighted(grams: tuple[Tensor, Tensor, Tensor], a: Tensor, b: Tensor) -> Tensor:
    """Return MMD² for each row of a (r, n) and b (r, m), the weights of the pictures of the two sets."""
    of_x, of_y, between = grams
    across = ((a @ between) * b).sum(1) / (a.sum(1) * b.sum(1))
    return _within(of_x, a) + _within(of_y, b) - 2 * across


def _within(gram: Tensor, weights: Tensor) -> Tensor:
    squares = weights**2
    total = ((weights @ gram) * weights).sum(1) - squares @ gram.diagonal()
    return total / (weights.sum(1) ** 2 - squares.sum(1))
