"""Regression onto the teacher's final latents of the same noise.

One-step students start here (DMD, arXiv 2311.18828; DMD2's warm start, arXiv 2405.14867).
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from distillation.losses.precision import require_one_shape, wide

FLOOR = 1e-8  # squared length of a feature vector, below which it counts as none


def pseudo_huber(output: Tensor, target: Tensor, *, c: float = 1e-3) -> Tensor:
    """mean(√((x − y)² + c²) − c) over all values (Song & Dhariwal, arXiv 2310.14189): square below c, absolute above.

    output [B, ...]; target of the same shape, a constant. c in the unit of the latents.
    """
    require_one_shape(output, target)
    if not 0 < c < math.inf:
        raise ValueError(f"c must be positive and finite, not {c}.")
    square = (wide(output) - wide(target.detach())).square()
    # √(s + c²) − c without the cancellation where s is small.
    return (square / ((square + c**2).sqrt() + c)).mean()


def perceptual(
    output: Tensor,
    target: Tensor,
    *,
    decoder: Callable[[Tensor], Tensor],
    features: Callable[[Tensor], Sequence[Tensor]],
) -> Tensor:
    """Σ_l E_b,position ‖f̂_l(dec(x)) − f̂_l(dec(y))‖², f̂ of length 1 over channels (LPIPS, arXiv 1801.03924, unweighted).

    output, target: latents [B, C, h, w], the target a constant. decoder: latents → images, the one that serves, since
    people see its images. features: images → maps [B, C_l, H_l, W_l], one per layer. Both frozen by the
    caller. In at least fp32, autocast off: half precision through a tiny decoder gives artefacts.
    """
    require_one_shape(output, target)
    with torch.autocast(output.device.type, enabled=False):
        maps = features(decoder(wide(output)))
        with torch.no_grad():
            wanted = features(decoder(wide(target)))
        if not maps or len(maps) != len(wanted):
            raise ValueError(
                f"{len(maps)} and {len(wanted)} maps of features; one at least, and as many."
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
    """perceptual + huber_weight · pseudo_huber, of G(z) and what the teacher's solver makes of the same noise z."""
    if not 0 <= huber_weight < math.inf:
        raise ValueError(f"huber_weight must be finite and not negative, not {huber_weight}.")
    seen = perceptual(output, target, decoder=decoder, features=features)
    return seen + huber_weight * pseudo_huber(output, target, c=c)


def _unit(maps: Tensor) -> Tensor:
    if maps.ndim != 4:
        raise ValueError(f"Features are [B, C, H, W], not {list(maps.shape)}.")
    return maps * torch.rsqrt(maps.square().sum(1, keepdim=True) + FLOOR)
