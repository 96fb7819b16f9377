"""What becomes of a normal distribution of weights when a part of the network is removed. Knows no network.

The exact forms, for covariances that are written out: dense, or in blocks. They need n² numbers for n weights and are
for small n; at a UNet's size the posterior is diagonal, and what is left of it is what is kept (pruning.py).

Removing a neuron: the weights out of it are zero, and those into it no longer matter. Removing a residual block
x + W·φ(x): its last projection W is zero, and the rest of it no longer matters. Both are p(v) = ∫ q(v, a | b = 0) da
with b the weights conditioned and a those forgotten (idea: Grabovoy & Strijov 2021, Automation and Remote Control
82(11); the formulas are the algebra of normal distributions).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Gaussian:
    """N(mean, covariance): [n], [n, n]."""

    mean: Tensor
    covariance: Tensor

    def __post_init__(self) -> None:
        count = len(self.mean)
        if self.mean.shape != (count,) or self.covariance.shape != (count, count):
            raise ValueError(
                f"The mean is [n] and the covariance [n, n], not {tuple(self.mean.shape)} and "
                f"{tuple(self.covariance.shape)}."
            )


def condition(posterior: Gaussian, indices: Tensor, *, value: Tensor | float = 0.0) -> Gaussian:
    """Of the other weights v, in their order, given that those at `indices` (int64 [k]) have the value ([k] or one).

    m = m_v + Σ_vb Σ_bb⁻¹ (value − m_b), Σ = Σ_vv − Σ_vb Σ_bb⁻¹ Σ_bv. With value 0 the shift −Σ_vb Σ_bb⁻¹ m_b is how
    the weights that are left make up for those removed, as in the optimal brain surgeon (Hassibi & Stork 1993). Raises
    ValueError if Σ_bb is not positive definite.
    """
    others = _others(posterior, indices)
    if not len(indices):
        return posterior
    mean, covariance = posterior.mean, posterior.covariance
    factor, info = torch.linalg.cholesky_ex(covariance[indices][:, indices])
    if info:
        raise ValueError(
            "The covariance of the weights to be removed is not positive definite: add to its diagonal."
        )
    across = covariance[others][:, indices]
    gain = torch.cholesky_solve(across.T, factor).T
    left = covariance[others][:, others] - gain @ across.T
    shift = gain @ (torch.as_tensor(value, dtype=mean.dtype) - mean[indices])
    return Gaussian(mean[others] + shift, (left + left.T) / 2)


def forget(posterior: Gaussian, indices: Tensor) -> Gaussian:
    """Of the other weights, in their order, whatever those at `indices` (int64 [k]) are: they are integrated out."""
    others = _others(posterior, indices)
    return Gaussian(posterior.mean[others], posterior.covariance[others][:, others])


def remove(posterior: Gaussian, *, zeroed: Tensor, forgotten: Tensor) -> Gaussian:
    """A neuron or a residual block removed: `zeroed` conditioned on 0, then `forgotten` integrated out.

    int64 indices into the weights as they are given. A weight in both, which runs from one removed neuron to another,
    is conditioned.
    """
    only = forgotten[~torch.isin(forgotten, zeroed)]
    places = torch.full((len(posterior.mean),), -1)
    others = _others(posterior, zeroed)
    places[others] = torch.arange(len(others))
    return forget(condition(posterior, zeroed), places[only])


def remove_by_blocks(
    blocks: Mapping[str, Gaussian],
    *,
    zeroed: Mapping[str, Tensor],
    forgotten: Mapping[str, Tensor],
) -> dict[str, Gaussian]:
    """`remove` with a block-diagonal covariance: blocks are independent, so each has its own indices; the rest stay."""
    unknown = sorted((set(zeroed) | set(forgotten)) - set(blocks))
    if unknown:
        raise ValueError(f"There is no block {unknown[0]!r}.")
    nothing = torch.empty(0, dtype=torch.int64)
    return {
        name: remove(
            block, zeroed=zeroed.get(name, nothing), forgotten=forgotten.get(name, nothing)
        )
        for name, block in blocks.items()
    }


def _others(posterior: Gaussian, indices: Tensor) -> Tensor:
    is_other = torch.ones(len(posterior.mean), dtype=torch.bool)
    if indices.dtype != torch.int64 or indices.ndim != 1:
        raise ValueError("Indices are int64 [k].")
    is_other[indices] = False
    if int((~is_other).sum()) != len(indices):
        raise ValueError("An index is given twice.")
    return is_other.nonzero()[:, 0]
