"""Calibration of the detector's bits: temperatures, thresholds and the calibration error."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

SHARPEST, FLATTEST = 1 / 20, 20.0  # temperatures searched
STEPS = 60  # of the bisection: the interval ends at float precision


class Calibrated(Protocol):
    """A network with a temperature and a threshold for each bit."""

    temperatures: Tensor
    thresholds: Tensor


def calibrate(
    network: Calibrated,
    logits: Tensor,
    bits: Tensor,
    *,
    known: Tensor,
    names: Sequence[str],
    false_accepts: float,
) -> None:
    """Set the network's temperatures, then thresholds, each from the images for which the bit is known.

    logits, bits, known: [N, bits]; false_accepts: largest false-positive rate. A threshold is that of the highest
    balanced accuracy if it keeps to the rate, else the lowest that does.
    """
    for number, name in enumerate(names):
        rows = known[:, number]
        z, y = logits[rows, number : number + 1], bits[rows, number : number + 1]
        if not 0 < int(y.sum()) < len(y):
            raise ValueError(
                f"The bit {name} is the same in all {len(y)} held-out pictures for which it is known: "
                "give more pictures with and without it."
            )
        temperature = fit_temperatures(z, y)
        p = torch.sigmoid(z / temperature)
        at_rate = thresholds_at_false_accepts(p, y, rate=false_accepts)
        network.temperatures[number] = temperature[0]
        network.thresholds[number] = torch.maximum(at_rate, fit_thresholds(p, y))[0]


def fit_temperatures(logits: Tensor, bits: Tensor) -> Tensor:
    """Return the temperatures, float32 [bits], that minimise the binary cross-entropy of sigmoid(logit / T).

    logits, bits: [N, bits]. Targets are smoothed by the counts, as in Platt 1999: where every image is right, the
    cross-entropy alone would make T zero.
    """
    z, y = _checked(logits, bits)
    positives = y.sum(dim=0)
    negatives = len(y) - positives
    target = torch.where(y, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    # Convex in β = 1/T, so its derivative mean(z·(σ(βz) − y)) has one root: bisect log β.
    low = torch.full_like(z[0], 1 / FLATTEST).log()
    high = torch.full_like(z[0], 1 / SHARPEST).log()
    for _ in range(STEPS):
        middle = (low + high) / 2
        slope = (z * (torch.sigmoid(middle.exp() * z) - target)).mean(dim=0)
        low, high = torch.where(slope < 0, middle, low), torch.where(slope < 0, high, middle)
    return torch.exp(-(low + high) / 2).float()


def fit_thresholds(probabilities: Tensor, bits: Tensor) -> Tensor:
    """Return the thresholds of highest balanced accuracy, float32 [bits]; present means ≥.

    A threshold lies in the middle, in logits, of the gap between two images; of equally good gaps the widest is used.
    """
    p, y = _checked(probabilities, bits)
    thresholds = []
    for column in range(p.shape[1]):
        cuts, widths, kept, accepted = _cuts(p[:, column], y[:, column])
        balanced = (kept + 1 - accepted) / 2
        best = (balanced >= balanced.max() - 1e-9).nonzero()[:, 0]
        thresholds.append(cuts[best[widths[best].argmax()]])
    return torch.stack(thresholds).float()


def thresholds_at_false_accepts(probabilities: Tensor, bits: Tensor, *, rate: float) -> Tensor:
    """Return the lowest thresholds, float32 [bits], that accept at most `rate` of the images without the bit."""
    if not 0 <= rate < 1:
        raise ValueError(f"A false-accept rate is from 0 to below 1, not {rate}.")
    p, y = _checked(probabilities, bits)
    thresholds = []
    for column in range(p.shape[1]):
        cuts, _, _, accepted = _cuts(p[:, column], y[:, column])
        thresholds.append(cuts[accepted <= rate].min())
    return torch.stack(thresholds).float()


def expected_calibration_error(probabilities: Tensor, bits: Tensor, *, bins: int = 15) -> float:
    """Return the mean distance between confidence and frequency over bins of equal width (arXiv 1706.04599).

    All bits together; binned by the probability of the bit.
    """
    if bins < 1:
        raise ValueError(f"At least one bin is needed, not {bins}.")
    if probabilities.shape != bits.shape or not probabilities.numel():
        raise ValueError(f"{list(probabilities.shape)} probabilities, {list(bits.shape)} bits.")
    p, y = probabilities.double().flatten(), bits.double().flatten()
    bin_of = (p * bins).long().clamp(0, bins - 1)
    confidence = torch.zeros(bins, dtype=torch.float64).index_add_(0, bin_of, p)
    frequency = torch.zeros(bins, dtype=torch.float64).index_add_(0, bin_of, y)
    return float((confidence - frequency).abs().sum() / len(p))


def _checked(values: Tensor, bits: Tensor) -> tuple[Tensor, Tensor]:
    """Return (float64 values, bool bits). Raises ValueError unless each bit is present in some images, not in all."""
    if values.shape != bits.shape or values.ndim != 2:
        raise ValueError(
            f"Values {list(values.shape)} and bits {list(bits.shape)} must both be [N, bits]."
        )
    y = bits.bool()
    counts = y.sum(dim=0)
    if bad := ((counts == 0) | (counts == len(y))).nonzero()[:, 0].tolist():
        raise ValueError(
            f"Bits {bad} are the same in all {len(y)} images: add images with and without each."
        )
    return values.double(), y


def _cuts(p: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return every distinct threshold of one bit: (probability, width of its gap in logits, share of positives kept, of
    negatives accepted). p: [N] probabilities; y: bool [N]."""
    z = torch.logit(p, eps=1e-9)
    levels = torch.cat([torch.tensor([-21.0, 21.0], dtype=z.dtype), z]).unique()  # sorted
    cuts = (levels[1:] + levels[:-1]) / 2
    widths = levels[1:] - levels[:-1]
    # The gaps beyond the outermost images are unbounded and count as empty.
    widths[0] = widths[-1] = 0
    kept = (z[y][None, :] >= cuts[:, None]).double().mean(dim=1)
    accepted = (z[~y][None, :] >= cuts[:, None]).double().mean(dim=1)
    return torch.sigmoid(cuts), widths, kept, accepted
