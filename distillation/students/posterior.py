"""Normal posterior distribution of a teacher's weights after its training.

A diagonal Laplace approximation: squared gradients estimate the curvature of the loss at the trained weights. The
student's prior is derived from it (idea: Grabovoy, Strijov 2021, Automation and Remote Control 82(11)); see pruning.py.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

SMALLEST, LARGEST = 1e-8, 1e-2  # default limits to which variances are clipped

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Posterior:
    """Independent normal weights: means and variances of each tensor, of equal shape. Raises ValueError."""

    mean: dict[str, Tensor]
    variance: dict[str, Tensor]

    def __post_init__(self) -> None:
        if set(self.mean) != set(self.variance):
            odd = sorted(set(self.mean) ^ set(self.variance))
            raise ValueError(f"{odd[0]} and {len(odd) - 1} more lack a mean or a variance.")
        for name, variance in self.variance.items():
            if variance.shape != self.mean[name].shape:
                raise ValueError(f"{name}: {tuple(variance.shape)} variances.")
            if not (variance > 0).all() or not variance.isfinite().all():
                raise ValueError(f"{name} has variances that are not above 0 and finite.")


def fisher(
    gradients: Callable[[Batch], Mapping[str, Tensor]],
    batches: Iterable[Batch],
    *,
    examples_per_batch: int = 1,
) -> dict[str, Tensor]:
    """Return the diagonal of the empirical Fisher information of one example: F = E[(∂ℓ ÷ ∂w)²], float32, per tensor.

    `gradients` returns for a batch the gradients of the mean negative log-likelihood ℓ of its examples, by tensor. With
    one example per batch this is the definition. With B examples it is B · E[g²] of the mean gradients g, which has the
    same expectation if the gradient is zero on average, as at trained weights. Raises ValueError without batches, or if
    the gradients are not finite.
    """
    if examples_per_batch < 1:
        raise ValueError(f"A batch has at least 1 example, not {examples_per_batch}.")
    sums: dict[str, Tensor] = {}
    count = 0
    for batch in batches:
        found = gradients(batch)
        if count and set(found) != set(sums):
            raise ValueError("Every batch must give gradients of the same tensors.")
        for name, gradient in found.items():
            square = gradient.detach().float() ** 2
            sums[name] = sums[name] + square if count else square
        count += 1
    if not count:
        raise ValueError("The Fisher information needs at least one batch.")
    for name, total in sums.items():
        if not total.isfinite().all():
            raise ValueError(f"The gradients of {name} are not finite.")
    return {name: total * (examples_per_batch / count) for name, total in sums.items()}


def laplace(
    mean: Mapping[str, Tensor],
    information: Mapping[str, Tensor],
    *,
    examples: int,
    precision: float,
    limits: tuple[float, float] = (SMALLEST, LARGEST),
) -> Posterior:
    """Return the posterior with variances 1 ÷ (N·F + λ), clipped, around the trained weights.

    `information`: F of `fisher`; `examples`: N, the number of training examples; `precision`: λ of the prior that the
    teacher was trained with (its weight decay). Where the data carry no information, the upper of the `limits` is the
    variance, and determines the order of pruning. Tensors without a gradient, such as unused ones, need an F of zeros.
    """
    if examples < 1 or precision < 0:
        raise ValueError(f"N ({examples}) must be at least 1 and λ ({precision}) not below 0.")
    variance = {
        name: (1 / (examples * values + precision)).clamp(*limits)
        for name, values in information.items()
    }
    return Posterior({name: value.detach().clone() for name, value in mean.items()}, variance)
