"""Conversion between the prediction types of diffusion networks: noise ε, velocity v, clean latents x₀.

x_t = α x₀ + σ ε with α² + σ² = 1, and v = α ε − σ x₀ (Salimans & Ho, arXiv 2202.00512). α and σ are [B], one per
sample. `prediction_type` is diffusers': "epsilon", "v_prediction", "sample" (x₀).
"""

import torch
from torch import Tensor

TYPES = ("epsilon", "v_prediction", "sample")
VARIANCE_TOLERANCE = 1e-3  # of α² + σ², for values that passed through fp16


def converted(
    prediction: Tensor, latents: Tensor, *, alpha: Tensor, sigma: Tensor, source: str, target: str
) -> Tensor:
    """Convert the prediction of type `source` for the noised `latents` x_t (both [B, ...]) to type `target`.

    Computed in fp64, because ε → x₀ divides by α and multiplies every rounding by σ ÷ α: 14.6 at the last step of
    SD 1.5. Returned in the wider dtype of prediction and latents, at least fp32. Differentiable in both.
    Raises ValueError where the conversion does not exist: ε → x₀ or v at α = 0, x₀ → ε or v at σ = 0.
    """
    for name in (source, target):
        if name not in TYPES:
            raise ValueError(f"{name!r} is not a prediction type. Give one of {', '.join(TYPES)}.")
    if prediction.shape != latents.shape or prediction.ndim < 2:
        raise ValueError(
            f"A prediction {list(prediction.shape)} does not fit latents {list(latents.shape)}; both are [B, ...]."
        )
    alpha, sigma = coefficients(alpha, sigma, batch=len(latents))
    dtype = torch.promote_types(torch.promote_types(prediction.dtype, latents.dtype), torch.float32)
    if source == target:
        return prediction.to(dtype)
    shape = (-1,) + (1,) * (latents.ndim - 1)
    alpha, sigma = alpha.to(latents.device).view(shape), sigma.to(latents.device).view(shape)
    x_t, given = latents.double(), prediction.double()
    if source == "epsilon":
        if not (alpha > 0).all():
            raise ValueError(
                f"epsilon does not determine {target} where alpha is 0 (zero terminal SNR)."
            )
        noise, x_0 = given, (x_t - sigma * given) / alpha
    elif source == "sample":
        if not (sigma > 0).all():
            raise ValueError(f"sample does not determine {target} where sigma is 0 (no noise).")
        noise, x_0 = (x_t - alpha * given) / sigma, given
    else:
        noise, x_0 = sigma * x_t + alpha * given, alpha * x_t - sigma * given
    outputs = {"epsilon": noise, "sample": x_0, "v_prediction": alpha * noise - sigma * x_0}
    return outputs[target].to(dtype)


def min_snr_weights(
    alpha: Tensor, sigma: Tensor, *, prediction_type: str, gamma: float = 5.0
) -> Tensor:
    """Return weights [B] of the squared error, fp64 (Hang et al., arXiv 2303.09556), SNR = α² ÷ σ².

    x₀: min(SNR, γ); ε: min(SNR, γ) ÷ SNR; v: min(SNR, γ) ÷ (SNR + 1). All three weigh the error of x₀ by min(SNR, γ).
    At zero terminal SNR the limits are used: 0 for x₀ and v, 1 for ε. A timestep of weight 0 is not trained: a student
    that starts there needs another weighting.
    """
    if prediction_type not in TYPES:
        raise ValueError(
            f"{prediction_type!r} is not a prediction type. Give one of {', '.join(TYPES)}."
        )
    if not gamma > 0:
        raise ValueError(f"gamma must be positive, not {gamma}.")
    alpha, sigma = coefficients(alpha, sigma, batch=len(alpha))
    signal, noise = alpha.square(), sigma.square()
    # These forms give the limits at both ends, α = 0 and σ = 0.
    if prediction_type == "epsilon":
        return (gamma * noise / signal).clamp(max=1)
    if prediction_type == "sample":
        return (signal / noise).clamp(max=gamma)
    return torch.minimum(signal, gamma * noise)


def coefficients(alpha: Tensor, sigma: Tensor, *, batch: int) -> tuple[Tensor, Tensor]:
    """Return both [B], detached, in fp64. Raises ValueError unless neither is negative and α² + σ² = 1."""
    if alpha.shape != (batch,) or sigma.shape != (batch,):
        raise ValueError(
            f"alpha and sigma must be [{batch}], not {list(alpha.shape)} and {list(sigma.shape)}."
        )
    alpha, sigma = alpha.detach().double(), sigma.detach().double()
    total = alpha.square() + sigma.square()
    if not ((alpha >= 0) & (sigma >= 0) & ((total - 1).abs() <= VARIANCE_TOLERANCE)).all():
        raise ValueError("alpha and sigma must not be negative, and alpha² + sigma² must be 1.")
    return alpha, sigma
