"""Soft targets: the student matches the teacher's softened probabilities.

Logits are [B, N, ...]: N classes along dimension 1, any positions after it (a classifier has none, a segmentation
has height and width). All values are means over the batch and the positions, in nats.
"""

import math

from torch import Tensor
from torch.nn import functional

from distillation.losses.precision import require_one_shape, wide

SUM_TOLERANCE = 1e-3  # of log Σp; fp32 over thousands of classes stays far below


def target_log_probabilities(teacher_logits: Tensor, *, temperature: float) -> Tensor:
    """Return log p(T), [B, N, ...], detached: p_i(T) = exp(v_i ÷ T) ÷ Σ_j exp(v_j ÷ T) (arXiv 1503.02531)."""
    _check_temperature(temperature)
    return functional.log_softmax(wide(teacher_logits.detach()) / temperature, dim=1)


def soft_loss(student_logits: Tensor, target: Tensor, *, temperature: float) -> Tensor:
    """Return T² · Σ_i p_i (log p_i − log q_i(T)), q(T) from the student's logits z (Hinton et al., arXiv 1503.02531).

    target: log p, [B, N, ...] like the logits, already at this temperature (`target_log_probabilities`), a constant.
    The divergence is the paper's cross-entropy minus the entropy of the target, also a constant: the gradient
    T · (q − p) is the same, but the loss is 0 when student and teacher agree.
    T² keeps the gradient's size: for large T it tends to (z − v) ÷ N of the centred logits, as in regression.
    """
    _check_temperature(temperature)
    require_one_shape(student_logits, target)
    target = wide(target.detach())
    if not (target.logsumexp(1).abs() <= SUM_TOLERANCE).all():
        raise ValueError(
            "The target must be logarithms of probabilities that sum to 1, not logits."
        )
    log_q = functional.log_softmax(wide(student_logits) / temperature, dim=1)
    divergence = functional.kl_div(log_q, target, log_target=True, reduction="none").sum(1)
    return temperature**2 * divergence.mean()


def _check_temperature(temperature: float) -> None:
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature must be positive and finite, not {temperature}.")
