"""Bayesian prior of a student: the teacher's posterior over the weights that were kept.

After Grabovoy & Strijov, "Bayesian distillation of deep learning models", Automation and Remote Control 82(11), 2021.
Prior and posterior are diagonal Gaussians. `students.pruning` cuts the posterior to the student's structure.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distillation.losses.precision import wide


@dataclass(frozen=True)
class DiagonalGaussian:
    """N(means, diag variances): for each parameter tensor of the student one tensor of its shape in both lists."""

    means: Sequence[Tensor]
    variances: Sequence[Tensor]  # of a weight, in squared units of the weight

    def __post_init__(self) -> None:
        shapes = [[list(part.shape) for part in parts] for parts in (self.means, self.variances)]
        if not self.means or shapes[0] != shapes[1]:
            raise ValueError(f"Means {shapes[0]} and variances {shapes[1]} differ in shape.")
        if not all(bool((part.detach() > 0).all()) for part in self.variances):
            raise ValueError("Variances must be positive.")


def prior_penalty(
    weights: Sequence[Tensor], prior: DiagonalGaussian, *, beta: float, examples: int
) -> Tensor:
    """Return β/2N Σ_i (w_i − m_i)² ÷ σ_i²: −log p(w) of the prior per training example, for a point estimate w.

    weights: the student's parameters, trained; the prior is a constant. examples: N; beta: β, 1 for Bayes' rule, less
    for a tempered prior. The same penalty as L2-SP (arXiv 1802.01483) and EWC (arXiv 1612.00796).
    """
    _check(beta, examples)
    _check_shapes(weights, prior)
    total = _total(
        [
            _square(weight, mean) / variance.detach()
            for weight, mean, variance in zip(weights, prior.means, prior.variances, strict=True)
        ]
    )
    return beta / (2 * examples) * total


def divergence(
    posterior: DiagonalGaussian, prior: DiagonalGaussian, *, beta: float, examples: int
) -> Tensor:
    """Return β/N · KL(q‖p) = β/2N Σ_i [log(σ_i² ÷ s_i²) + (s_i² + (μ_i − m_i)²) ÷ σ_i² − 1], nats per training example.

    posterior: the student's q = N(μ, diag s²), trained; prior: p = N(m, diag σ²), a constant. It is the second term
    of the evidence lower bound E_q log p(D|w) − KL(q‖p). examples: N; beta: β, 1 for the bound itself.
    """
    _check(beta, examples)
    _check_shapes(posterior.means, prior)
    terms = []
    for mean, variance, prior_mean, prior_variance in zip(
        posterior.means, posterior.variances, prior.means, prior.variances, strict=True
    ):
        ratio = variance / prior_variance.detach()
        pull = _square(mean, prior_mean) / prior_variance.detach()
        terms.append(ratio - 1 - ratio.log() + pull)
    return beta / (2 * examples) * _total(terms)


def _square(weight: Tensor, mean: Tensor) -> Tensor:
    """Return (w − m)², m a constant, in at least fp32."""
    return (wide(weight) - wide(mean.detach())).square()


def _total(terms: list[Tensor]) -> Tensor:
    return torch.stack([term.sum() for term in terms]).sum()


def _check(beta: float, examples: int) -> None:
    if not 0 <= beta < math.inf:
        raise ValueError(f"beta must be finite and not negative, not {beta}.")
    if examples < 1:
        raise ValueError(f"examples must be at least 1, not {examples}.")


def _check_shapes(weights: Sequence[Tensor], prior: DiagonalGaussian) -> None:
    shapes = [list(weight.shape) for weight in weights]
    expected = [list(mean.shape) for mean in prior.means]
    if shapes != expected:
        raise ValueError(f"The student's weights {shapes} do not fit the prior's {expected}.")
