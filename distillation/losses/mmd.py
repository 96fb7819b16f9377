"""Maximum mean discrepancy between layers: a channel is a sample, so channel counts may differ.

Huang & Wang, "Like What You Like: Knowledge Distill via Neuron Selectivity Transfer", arXiv 1707.01219. It ignores the
order of channels and their scale: use it together with a loss on the outputs.

Maps are [B, C, H, W]. A kernel is given as its quadratic form over signed samples: (z [B, M, N], c [M]) → [B], the
Σ_ij c_i c_j k(z_i, z_j) of each image. With z the channels of teacher and student and c their weights, negative for
the student, that is MMD².
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from distillation.losses.precision import wide

Kernel = Callable[[Tensor, Tensor], Tensor]
FLOOR = 1e-6  # mean square below which a channel shrinks to 0 instead of growing to length 1


def linear(samples: Tensor, weights: Tensor) -> Tensor:
    """Return the form [B] of k(x, y) = xᵀy: the squared distance of the mean channels, ‖Σ_i c_i z_i‖²."""
    return _mean(samples, weights).square().sum(1)


def polynomial(samples: Tensor, weights: Tensor) -> Tensor:
    """Return the form [B] of k(x, y) = (xᵀy)², the paper's kernel, which compares the N × N Gram matrices.

    Computes the smaller of the M × M and the N × N matrix: ‖Zᵀ diag(c) Z‖² = cᵀ (ZZᵀ)² c.
    """
    count, length = samples.shape[1:]
    if length < count:
        return (samples.mT @ (samples * weights[:, None])).square().sum((1, 2))
    return _form((samples @ samples.mT).square(), weights)


def gaussian(samples: Tensor, weights: Tensor) -> Tensor:
    """Return the form [B] of k(x, y) = exp(−‖x − y‖² ÷ 2σ²), σ²: mean squared distance of its channels, constant.

    In the mean, teacher and student have equal weight, whatever their numbers of channels.
    """
    squares = samples.square().sum(2)
    distances = squares[:, :, None] + squares[:, None, :] - 2 * samples @ samples.mT
    distances = distances.clamp(min=0)
    shares = weights.abs() / weights.abs().sum()
    smallest = torch.finfo(samples.dtype).tiny
    widths = _form(distances.detach(), shares).clamp(min=smallest)[:, None, None]
    return _form(torch.exp(-distances / (2 * widths)), weights)


def mmd2(student: Tensor, teacher: Tensor, *, kernel: Kernel) -> Tensor:
    """Return 1/C_T² Σ k(t, t') + 1/C_S² Σ k(s, s') − 2/(C_T C_S) Σ k(t, s), the batch mean of MMD² (arXiv 1707.01219).

    student [B, C_S, h, w], teacher [B, C_T, h', w'], a constant: each is pooled to the smaller height and width, then
    each channel is normalised to length 1. The estimate is biased: 0 exactly if the kernel finds no difference.
    """
    maps = [teacher.detach(), student]
    if any(part.ndim != 4 for part in maps) or len({len(part) for part in maps}) > 1:
        raise ValueError(
            f"Maps are [B, C, H, W] of one batch size, not {[list(part.shape) for part in maps]}."
        )
    size = min(part.shape[2] for part in maps), min(part.shape[3] for part in maps)
    channels = [_channels(part, size) for part in maps]
    signed = [
        part.new_full((part.shape[1],), sign / part.shape[1])
        for part, sign in zip(channels, (1.0, -1.0), strict=True)
    ]
    # MMD² is a difference of products, and small against them.
    with torch.autocast(student.device.type, enabled=False):
        return kernel(torch.cat(channels, dim=1), torch.cat(signed)).mean()


def depth_weights(
    student: Sequence[tuple[float, int]], teacher: Sequence[tuple[float, int]], *, reach: float
) -> Tensor:
    """Return weights ω [L_S, L_T] ∝ exp(−|depth_S − depth_T| ÷ reach) between layers, each row with sum 1.

    Both: (depth, height of the map) per layer; the depth from 0 at the input to 1 at the output, reach in the same
    unit. The weight is 0 unless the heights differ by at most a factor of 2; `layers_mmd2` skips such pairs.
    """
    if not reach > 0:
        raise ValueError(f"reach must be positive, not {reach}.")
    for depth, height in (*student, *teacher):
        if not 0 <= depth <= 1 or height < 1:
            raise ValueError(
                f"A layer is (depth in 0 … 1, height of the map), not {(depth, height)}."
            )
    rows = []
    for depth, height in student:
        logits = [
            -abs(depth - other) / reach if max(height, side) <= 2 * min(height, side) else -math.inf
            for other, side in teacher
        ]
        if not any(math.isfinite(logit) for logit in logits):
            raise ValueError(f"No layer of the teacher has a map about as high as {height}.")
        rows.append(torch.tensor(logits, dtype=torch.float64).softmax(0))
    if not rows:
        raise ValueError("The student has no layers.")
    return torch.stack(rows)


def layers_mmd2(
    student_maps: Sequence[Tensor],
    teacher_maps: Sequence[Tensor],
    *,
    weights: Tensor,
    kernel: Kernel,
) -> Tensor:
    """Return Σ_ml ω_ml MMD²(S_m, T_l) over all pairs of layers, a scalar. weights: ω [L_S, L_T], `depth_weights`.

    The factor ½λ of arXiv 1707.01219 is a field of the recipe.
    """
    if weights.shape != (len(student_maps), len(teacher_maps)) or not weights.numel():
        raise ValueError(
            f"{len(student_maps)} layers of the student and {len(teacher_maps)} of the teacher do not fit "
            f"weights {list(weights.shape)}."
        )
    table = weights.tolist()
    if not all(math.isfinite(weight) and weight >= 0 for row in table for weight in row):
        raise ValueError("The weights must be finite and not negative.")
    terms = [
        weight * mmd2(student, teacher, kernel=kernel)
        for student, row in zip(student_maps, table, strict=True)
        for teacher, weight in zip(teacher_maps, row, strict=True)
        if weight > 0
    ]
    if not terms:
        raise ValueError("All weights are 0.")
    return torch.stack(terms).sum()


def _channels(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the pooled maps, [B, C, N], channels of length 1 unless their mean square is near FLOOR; at least fp32."""
    channels = functional.adaptive_avg_pool2d(wide(maps), size).flatten(2)
    squares = channels.square().sum(2, keepdim=True)
    return channels * torch.rsqrt(squares + FLOOR * channels.shape[2])


def _mean(samples: Tensor, weights: Tensor) -> Tensor:
    """Return Σ_i c_i z_i, [B, N]."""
    return torch.einsum("bmn,m->bn", samples, weights)


def _form(gram: Tensor, weights: Tensor) -> Tensor:
    """Return cᵀ K c of each image, [B]."""
    return torch.einsum("bij,i,j->b", gram, weights, weights)
