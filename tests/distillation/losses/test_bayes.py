import pytest
import torch

from distillation.losses.bayes import DiagonalGaussian, divergence, prior_penalty


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian(seed: int) -> DiagonalGaussian:
    means = [drawn(3, 2, seed=seed), drawn(4, seed=seed + 1)]
    return DiagonalGaussian(means, [drawn(*m.shape, seed=seed + 2).exp() for m in means])


def test_the_divergence_is_that_of_torch():
    posterior, prior = gaussian(0), gaussian(10)
    expected = sum(
        float(
            torch.distributions.kl_divergence(
                torch.distributions.Normal(m, v.sqrt()), torch.distributions.Normal(pm, pv.sqrt())
            ).sum()
        )
        for m, v, pm, pv in zip(
            posterior.means, posterior.variances, prior.means, prior.variances, strict=True
        )
    )
    found = divergence(posterior, prior, beta=0.5, examples=4)
    assert float(found) == pytest.approx(0.5 / 4 * expected, rel=1e-12)


def test_the_divergence_is_zero_only_where_both_are_equal():
    prior = gaussian(10)
    assert float(divergence(prior, prior, beta=1.0, examples=1)) == 0
    moved = DiagonalGaussian([mean + 1e-2 for mean in prior.means], prior.variances)
    wider = DiagonalGaussian(prior.means, [1.05 * v for v in prior.variances])
    tighter = DiagonalGaussian(prior.means, [0.95 * v for v in prior.variances])
    for other in (moved, wider, tighter):
        assert float(divergence(other, prior, beta=1.0, examples=1)) > 1e-5


def test_the_penalty_is_the_logarithm_of_the_prior_density():
    """Up to a constant: differences between two students are compared."""
    prior, students = gaussian(10), (gaussian(0).means, gaussian(20).means)
    penalties = [float(prior_penalty(student, prior, beta=1.0, examples=1)) for student in students]
    densities = [
        sum(
            float(torch.distributions.Normal(m, v.sqrt()).log_prob(w).sum())
            for w, m, v in zip(student, prior.means, prior.variances, strict=True)
        )
        for student in students
    ]
    assert penalties[0] - penalties[1] == pytest.approx(densities[1] - densities[0])
    scaled = prior_penalty(students[0], prior, beta=0.1, examples=50)
    assert float(scaled) == pytest.approx(penalties[0] * 0.1 / 50)


def test_the_penalty_is_the_divergence_of_a_posterior_with_the_priors_variance():
    """With s² = σ² only the pull of the means is left."""
    prior, means = gaussian(10), gaussian(0).means
    full = divergence(DiagonalGaussian(means, prior.variances), prior, beta=1.0, examples=7)
    assert float(full) == pytest.approx(float(prior_penalty(means, prior, beta=1.0, examples=7)))


def test_a_weight_of_small_variance_has_a_larger_gradient():
    prior = DiagonalGaussian([torch.zeros(2)], [torch.tensor([1e-4, 1e-2])])
    weights = torch.ones(2, requires_grad=True)
    prior_penalty([weights], prior, beta=1.0, examples=1).backward()
    assert float(weights.grad[0] / weights.grad[1]) == pytest.approx(100)


def test_more_data_reduces_the_influence_of_the_prior():
    """Regression of a mean: the minimiser of loss + penalty is the Bayesian posterior mean, and nears the data's."""
    prior = DiagonalGaussian([torch.zeros(1).double()], [torch.tensor([0.5]).double()])
    for examples in (1, 10, 1000):
        exact = 2.0 * examples / (examples + 1 / 0.5)  # unit noise, data of mean 2
        weight = torch.full((1,), exact, dtype=torch.float64, requires_grad=True)
        loss = 0.5 * (weight - 2).square().sum()
        (loss + prior_penalty([weight], prior, beta=1.0, examples=examples)).backward()
        assert float(weight.grad) == pytest.approx(0, abs=1e-12)


def test_only_the_student_gets_a_gradient_and_the_derivatives_are_right():
    mean, variance = drawn(3).requires_grad_(), drawn(3, seed=1).exp().requires_grad_()
    prior_parts = [drawn(3, seed=2).requires_grad_(), drawn(3, seed=3).exp().requires_grad_()]
    prior = DiagonalGaussian([prior_parts[0]], [prior_parts[1]])

    def full(m: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return divergence(DiagonalGaussian([m], [v]), prior, beta=1.0, examples=2)

    full(mean, variance).backward()
    prior_penalty([mean], prior, beta=1.0, examples=2).backward()
    assert all(part.grad is None for part in prior_parts)
    leaves = mean.detach().requires_grad_(), variance.detach().requires_grad_()
    assert torch.autograd.gradcheck(full, leaves)
    assert torch.autograd.gradcheck(
        lambda w: prior_penalty([w], prior, beta=1.0, examples=2), leaves[:1]
    )


def test_contradictions_are_refused():
    prior = gaussian(10)
    with pytest.raises(ValueError, match="differ in shape"):
        DiagonalGaussian([torch.ones(2)], [torch.ones(3)])
    with pytest.raises(ValueError, match="differ in shape"):
        DiagonalGaussian([], [])
    for bad in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="positive"):
            DiagonalGaussian([torch.ones(1)], [torch.tensor([bad])])
    with pytest.raises(ValueError, match="do not fit the prior's"):
        prior_penalty(prior.means[:1], prior, beta=1.0, examples=1)
    with pytest.raises(ValueError, match="do not fit the prior's"):
        prior_penalty([prior.means[0], torch.ones(1)], prior, beta=1.0, examples=1)
    with pytest.raises(ValueError, match="beta"):
        prior_penalty(prior.means, prior, beta=-1.0, examples=1)
    with pytest.raises(ValueError, match="examples"):
        divergence(prior, prior, beta=1.0, examples=0)
