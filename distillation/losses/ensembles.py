"""One target from the predictions of several teachers.

`weights` are π_k: [K], one per teacher, or [K, B] if they differ by sample (by prompt variant); not negative, with sum
1 over the teachers. All targets are detached.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from distillation.losses.noise_regression import noise_regression
from distillation.losses.precision import wide

SUM_TOLERANCE = 1e-4


def mean_noise(noise_preds: Sequence[Tensor], *, weights: Tensor) -> Tensor:
    """Return ε̄ = Σ_k π_k ε_k, [B, ...], from the teachers' predictions for the same noised latents.

    ε is −σ_t times the score ∇log p_t, so ε̄ is the score of the geometric mean of the densities at each noise level.
    All predictions must have one type. Averaging final images of different teachers instead would blur them.
    """
    stacked = _stacked(noise_preds)
    return (stacked * _spread(weights, stacked)).sum(0)


def disagreement(noise_preds: Sequence[Tensor], *, weights: Tensor) -> Tensor:
    """Return v = Σ_k π_k ‖ε_k − ε̄‖² ÷ d, [B]: the variance between teachers, the mean over the d values of a sample."""
    stacked = _stacked(noise_preds)
    spread = _spread(weights, stacked)
    mean = (stacked * spread).sum(0)
    return ((stacked - mean).square() * spread).sum(0).flatten(1).mean(1)


def ensemble_regression(
    noise_pred: Tensor, teacher_preds: Sequence[Tensor], *, weights: Tensor, variance: float
) -> Tensor:
    """Return E[‖ε_S − ε̄‖² ÷ d · 1 ÷ (τ² + v)]: samples on which the teachers disagree have less weight.

    noise_pred: the student's, [B, ...]. variance: τ², of the student's own error, in squared units of the prediction.
    The weight is that of a Gaussian likelihood of variance τ² + v (Kendall & Gal, arXiv 1703.04977), without the
    logarithm of the variance, which is constant for frozen teachers. Without the weight, drawing one teacher per batch,
    k ~ π, has the same minimiser ε̄ with one pass instead of K.
    """
    if not 0 < variance < math.inf:
        raise ValueError(f"variance must be positive and finite, not {variance}.")
    target = mean_noise(teacher_preds, weights=weights)
    confidence = 1 / (variance + disagreement(teacher_preds, weights=weights))
    return noise_regression(noise_pred, target, weights=confidence)


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    """Return the tensors stacked, [K, B, ...], detached, in at least fp32."""
    if not tensors:
        raise ValueError("An ensemble has at least one teacher.")
    shapes = {tuple(tensor.shape) for tensor in tensors}
    if len(shapes) > 1 or tensors[0].ndim < 2:
        raise ValueError(
            f"The teachers' outputs must be of one shape [B, ...], not {sorted(shapes)}."
        )
    return wide(torch.stack([tensor.detach() for tensor in tensors]))


def _spread(weights: Tensor, stacked: Tensor) -> Tensor:
    """Return the weights with as many dimensions as `stacked`, [K, B, ...]."""
    weights = weights.detach().to(stacked)
    teachers, batch = stacked.shape[:2]
    if weights.shape not in ((teachers,), (teachers, batch)):
        raise ValueError(
            f"{teachers} teachers and {batch} samples take weights [{teachers}] or [{teachers}, {batch}], "
            f"not {list(weights.shape)}."
        )
    if not ((weights >= 0).all() and ((weights.sum(0) - 1).abs() <= SUM_TOLERANCE).all()):
        raise ValueError("The weights of the teachers must not be negative and must sum to 1.")
    return weights.reshape(weights.shape + (1,) * (stacked.ndim - weights.ndim))
