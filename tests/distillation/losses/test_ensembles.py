import pytest
import torch

from distillation.losses.ensembles import disagreement, ensemble_regression, mean_noise
from distillation.losses.noise_regression import noise_regression

WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def teachers(*shape: int) -> list[torch.Tensor]:
    return [drawn(*shape, seed=seed) for seed in (1, 2, 3)]


def test_the_mean_noise_is_the_score_of_the_geometric_mean_of_densities():
    """Of Gaussians p_k = N(m_k, s_k²): the score of Π p_k^π_k by autograd, beside the mean of the scores."""
    means, scales = (
        torch.tensor(values).double() for values in ([0.0, 1.0, -2.0], [1.0, 0.5, 2.0])
    )
    x, sigma = drawn(5, 1), 0.7
    noises = [-sigma * (m - x) / s**2 for m, s in zip(means, scales, strict=True)]
    point = x.clone().requires_grad_()
    log_density = sum(
        w * torch.distributions.Normal(m, s).log_prob(point)
        for w, m, s in zip(WEIGHTS, means, scales, strict=True)
    )
    (score,) = torch.autograd.grad(log_density.sum(), point)
    assert torch.allclose(mean_noise(noises, weights=WEIGHTS), -sigma * score)


def test_disagreement_is_the_variance_between_teachers():
    noises = [torch.zeros(2, 3), torch.zeros(2, 3)]
    noises[0][1], noises[1][1] = 1.0, -1.0
    assert disagreement(noises, weights=torch.tensor([0.5, 0.5])).tolist() == [0.0, 1.0]
    # Of weights 0.9 and 0.1: the mean is 0.8, the variance 0.9 · 0.2² + 0.1 · 1.8².
    found = disagreement(noises, weights=torch.tensor([0.9, 0.1]))
    assert found.tolist() == pytest.approx([0.0, 0.36])


def test_disagreement_of_the_teachers_lowers_the_weight_of_a_sample():
    noises = [torch.zeros(2, 3), torch.zeros(2, 3)]
    noises[0][1], noises[1][1] = 1.0, -1.0
    student = torch.ones(2, 3, requires_grad=True)
    loss = ensemble_regression(student, noises, weights=torch.tensor([0.5, 0.5]), variance=0.25)
    assert loss.item() == pytest.approx((1 / 0.25 + 1 / 1.25) / 2)
    loss.backward()
    assert float(student.grad[0, 0] / student.grad[1, 0]) == pytest.approx(5)


def test_one_teacher_drawn_per_batch_has_the_minimiser_of_the_mean_target():
    noises = teachers(2, 3)
    mean = mean_noise(noises, weights=WEIGHTS)
    student = mean.clone().requires_grad_()
    expectation = sum(
        w * noise_regression(student, noise) for w, noise in zip(WEIGHTS, noises, strict=True)
    )
    (gradient,) = torch.autograd.grad(expectation, student)
    assert torch.allclose(gradient, torch.zeros_like(gradient), atol=1e-15)
    elsewhere = drawn(2, 3, seed=9).requires_grad_()
    expectation = sum(
        w * noise_regression(elsewhere, noise) for w, noise in zip(WEIGHTS, noises, strict=True)
    )
    gradients = [
        torch.autograd.grad(loss, elsewhere)[0]
        for loss in (expectation, noise_regression(elsewhere, mean))
    ]
    assert torch.allclose(*gradients)
    # What the draw adds to the loss is the disagreement, which no student can remove.
    gap = expectation - noise_regression(elsewhere, mean)
    assert gap.item() == pytest.approx(float(disagreement(noises, weights=WEIGHTS).mean()))


def test_teachers_may_be_weighed_sample_by_sample():
    noises = teachers(2, 3)[:2]
    weights = torch.tensor([[1.0, 0.25], [0.0, 0.75]], dtype=torch.float64)
    found = mean_noise(noises, weights=weights)
    assert torch.equal(found[0], noises[0][0])
    assert torch.allclose(found[1], 0.25 * noises[0][1] + 0.75 * noises[1][1])


def test_teachers_get_no_gradient_and_the_derivative_is_right():
    noises = [noise.requires_grad_() for noise in teachers(2, 3)]
    student = drawn(2, 3).requires_grad_()
    ensemble_regression(student, noises, weights=WEIGHTS, variance=0.5).backward()
    assert all(noise.grad is None for noise in noises)
    assert torch.autograd.gradcheck(
        lambda s: ensemble_regression(s, noises, weights=WEIGHTS, variance=0.5), (student,)
    )


def test_contradictions_are_refused():
    noises = teachers(2, 3)
    with pytest.raises(ValueError, match="at least one teacher"):
        mean_noise([], weights=torch.ones(0))
    with pytest.raises(ValueError, match="one shape"):
        mean_noise([drawn(2, 3), drawn(2, 4)], weights=torch.tensor([0.5, 0.5]))
    with pytest.raises(ValueError, match=r"take weights \[3\] or \[3, 2\]"):
        mean_noise(noises, weights=torch.tensor([0.5, 0.5]))
    for bad in ([0.5, 0.4, 0.2], [1.2, -0.4, 0.2]):
        with pytest.raises(ValueError, match="must sum to 1"):
            mean_noise(noises, weights=torch.tensor(bad))
    with pytest.raises(ValueError, match="variance"):
        ensemble_regression(drawn(2, 3), noises, weights=WEIGHTS, variance=0.0)
