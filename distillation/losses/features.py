"""Feature matching of paired layers of one shape; for layers of other shapes see `mmd`."""

from collections.abc import Sequence

import torch
from torch import Tensor

from distillation.losses.precision import wide

FLOOR = 1e-6  # δ, mean square of a feature


def normalised_matching(
    student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]
) -> Tensor:
    """Return 1/L Σ_l E_b[‖f_S − f_T‖² ÷ (‖f_T‖² + δd)], normalised as in LAPTOP-Diff (Zhang et al., arXiv 2404.11098).

    Both: one [B, ...] per layer, of the same shapes, in the same order; the teacher's are constants. Every layer and
    every sample has the same weight, whatever the size of its values; student features of 0 give 1. Without the
    division a few layers with large values would dominate. Multiply by L for the sum over layers. δ = FLOOR keeps
    teacher features near 0 from dominating.
    """
    if not student_features or len(student_features) != len(teacher_features):
        raise ValueError(
            f"Give as many layers of the student ({len(student_features)}) as of the teacher "
            f"({len(teacher_features)}), "
            "at least one."
        )
    terms = []
    for index, (student, teacher) in enumerate(
        zip(student_features, teacher_features, strict=True)
    ):
        if student.shape != teacher.shape or student.ndim < 2:
            raise ValueError(
                f"Layer {index}: features {list(student.shape)} of the student do not fit "
                f"{list(teacher.shape)} of the teacher."
            )
        target = wide(teacher.detach())
        error = (wide(student) - target).square().flatten(1).mean(1)
        terms.append((error / (target.square().flatten(1).mean(1) + FLOOR)).mean())
    return torch.stack(terms).mean()
