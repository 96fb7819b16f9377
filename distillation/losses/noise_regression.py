"""Regression on the predictions of diffusion networks; conversions are in `predictions`.

The predictions may be ε, v or x₀, as long as both have one type.
"""

from torch import Tensor

from distillation.losses.precision import require_one_shape, weighted_mean, wide


def noise_regression(
    noise_pred: Tensor, target: Tensor, *, weights: Tensor | None = None
) -> Tensor:
    """Return E_b[w_b ‖ε_S − ε_T‖² ÷ d], the mean over the d values of a sample and over the batch.

    noise_pred: the student's, [B, ...]. target: the drawn noise (hard target) or the teacher's prediction (soft),
    a constant. weights: [B], for instance `predictions.min_snr_weights`; None is 1.
    It is the negative log-likelihood of a Gaussian around ε_S up to constants, and the limit of soft targets at a high
    temperature: for centred logits T² · KL → ‖z − v‖² ÷ 2N, half of this mean (Hinton et al., arXiv 1503.02531, §2.1).
    """
    require_one_shape(noise_pred, target)
    errors = (wide(noise_pred) - wide(target.detach())).square().flatten(1).mean(1)
    return weighted_mean(errors, weights)


def guided(noise_pred_uncond: Tensor, noise_pred_text: Tensor, *, guidance_scale: float) -> Tensor:
    """Return ε_w = ε_∅ + w (ε_c − ε_∅), [B, ...], at least fp32 (Ho, Salimans, arXiv 2207.12598); w = 1: off."""
    require_one_shape(noise_pred_uncond, noise_pred_text)
    without, text = wide(noise_pred_uncond), wide(noise_pred_text)
    return without + guidance_scale * (text - without)
