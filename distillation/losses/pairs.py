"""Regression on the teacher's final latents for the same noise.

It initialises one-step students (DMD, arXiv 2311.18828; DMD2's warm start, arXiv 2405.14867).
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from distillation.losses.precision import require_one_shape, wide

FLOOR = 1e-8  # squared length below which a feature vector counts as zero


def pseudo_huber(output: Tensor, target: Tensor, *, c: float = 1e-3) -> Tensor:
    """Return mean(√((x − y)² + c²) − c) (Song & Dhariwal, arXiv 2310.14189): quadratic below c, linear above.

    output [B, ...]; target of the same shape, a constant. c in the unit of the latents.
    """
    require_one_shape(output, target)
    if not 0 < c < math.inf:
        raise ValueError(f"c must be positive and finite, not {c}.")
    square = (wide(output) - wide(target.detach())).square()
    # √(s + c²) − c without cancellation for small s.
    return (square / ((square + c**2).sqrt() + c)).mean()


def perceptual(
    output: Tensor,
    target: Tensor,
    *,
    decoder: Callable[[Tensor], Tensor],
    features: Callable[[Tensor], Sequence[Tensor]],
) -> Tensor:
    """Return Σ_l E_b,position ‖f̂_l(dec(x)) − f̂_l(dec(y))‖², f̂ of length 1 (unweighted LPIPS, arXiv 1801.03924).

    output, target: latents [B, C, h, w], the target a constant. decoder: latents → images, the decoder that is served.
    features: images → maps [B, C_l, H_l, W_l], one per layer. The caller freezes both. Computed in at least fp32
    without autocast: half precision in a tiny decoder gives artefacts.
    """
    require_one_shape(output, target)
    with torch.autocast(output.device.type, enabled=False):
        maps = features(decoder(wide(output)))
        with torch.no_grad():
            wanted = features(decoder(wide(target)))
        if not maps or len(maps) != len(wanted):
            raise ValueError(
                f"features returned {len(maps)} and {len(wanted)} maps; the numbers must be equal and at least 1."
            )
        terms = [
            (_unit(ours) - _unit(theirs)).square().sum(1).mean()
            for ours, theirs in zip(maps, wanted, strict=True)
        ]
        return torch.stack(terms).sum()


def pair_regression(
    output: Tensor,
    target: Tensor,
    *,
    decoder: Callable[[Tensor], Tensor],
    features: Callable[[Tensor], Sequence[Tensor]],
    huber_weight: float = 0.1,
    c: float = 1e-3,
) -> Tensor:
    """Return perceptual + huber_weight · pseudo_huber. output: G(z); target: the teacher's solver's result for z."""
    if not 0 <= huber_weight < math.inf:
        raise ValueError(f"huber_weight must be finite and not negative, not {huber_weight}.")
    seen = perceptual(output, target, decoder=decoder, features=features)
    return seen + huber_weight * pseudo_huber(output, target, c=c)


def _unit(maps: Tensor) -> Tensor:
    if maps.ndim != 4:
        raise ValueError(f"Features are [B, C, H, W], not {list(maps.shape)}.")
    return maps * torch.rsqrt(maps.square().sum(1, keepdim=True) + FLOOR)
