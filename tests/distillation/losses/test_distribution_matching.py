import math

import pytest
import torch

from distillation.losses.distribution_matching import (
    distribution_matching,
    f_distill_weights,
    matching_gradient,
)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def example() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return tuple(drawn(3, 2, 4, 4, seed=seed) for seed in range(3))


def test_the_gradient_of_the_loss_is_g_over_the_number_of_values():
    x, real, fake = example()
    scale = (x - real).abs().mean((1, 2, 3), keepdim=True)
    expected = (fake - real) / scale / x.numel()
    x.requires_grad_()
    distribution_matching(x, real, fake).backward()
    assert torch.allclose(x.grad, expected, rtol=1e-12)


def test_the_gradient_is_not_rounded_away_beside_large_latents():
    x = torch.full((1, 4), 1e4)
    real, fake = x - 1e4, x - 1e4 + torch.tensor([1e-3, 2e-3, 0.0, 0.0])
    x.requires_grad_()
    distribution_matching(x, real, fake).backward()
    assert torch.allclose(x.grad, torch.tensor([[1e-7, 2e-7, 0, 0]]) / 4, rtol=1e-4)


def test_each_sample_is_normalised_by_itself():
    x, real, fake = example()
    scale = torch.tensor([1.0, 10.0, 1000.0]).view(-1, 1, 1, 1)
    plain = matching_gradient(x, real, fake)
    assert torch.allclose(matching_gradient(x * scale, real * scale, fake * scale), plain)
    alone = matching_gradient(x[1:2], real[1:2], fake[1:2])
    assert torch.allclose(alone, plain[1:2])


def test_descent_goes_from_the_fake_towards_the_real_estimate():
    x, real, fake = example()
    x.requires_grad_()
    distribution_matching(x, real, fake).backward()
    assert float((-x.grad * (real - fake)).sum()) > 0


def test_the_gradient_is_zero_where_both_scores_agree():
    x, real, _ = example()
    x.requires_grad_()
    loss = distribution_matching(x, real, real)
    loss.backward()
    assert loss.item() == 0 and not x.grad.any()


def test_non_finite_scores_give_no_gradient_and_affect_no_other_sample():
    x, real, fake = example()
    plain = matching_gradient(x, real, fake)
    fake[0, 0, 0, 0] = math.nan
    fake[1, 0, 0, 0] = math.inf
    found = matching_gradient(x, real, fake)
    assert found[0, 0, 0, 0] == 0 and found[1, 0, 0, 0] == 0
    assert torch.equal(found[0, 1], plain[0, 1]) and torch.equal(found[2], plain[2])
    # The student already is where the teacher points: 0 divided by 0, and something divided by 0.
    exact = matching_gradient(real, real, real), matching_gradient(real, real, fake[[2, 2, 2]])
    assert not exact[0].any() and not exact[1].any()


def test_a_non_finite_student_gives_a_non_finite_loss():
    x, real, fake = example()
    x[0, 0, 0, 0] = math.nan
    assert not distribution_matching(x, real, fake).isfinite()


def test_weights_scale_the_gradient_of_their_sample():
    x, real, fake = example()
    gradients = []
    for weights in (None, torch.tensor([1.0, 0.5, 3.0])):
        point = x.clone().requires_grad_()
        distribution_matching(point, real, fake, weights=weights).backward()
        gradients.append(point.grad)
    assert torch.allclose(
        gradients[1], gradients[0] * torch.tensor([1.0, 0.5, 3.0]).view(-1, 1, 1, 1)
    )


def test_neither_score_gets_a_gradient():
    x, real, fake = (tensor.requires_grad_() for tensor in example())
    distribution_matching(x, real, fake).backward()
    assert real.grad is None and fake.grad is None and x.grad is not None


def test_matching_moves_a_gaussian_student_onto_the_teachers_distribution():
    """Exact scores of Gaussians stand for both networks; the student's is refitted every step."""
    generator = torch.Generator().manual_seed(0)
    mean, log_std = (
        torch.tensor([-2.0], requires_grad=True),
        torch.tensor([0.7], requires_grad=True),
    )
    optimizer = torch.optim.Adam([mean, log_std], lr=0.05)
    for _ in range(400):
        x = mean + log_std.exp() * torch.randn(64, 1, generator=generator)
        t = torch.rand(64, 1, generator=generator) * 0.9 + 0.05
        alpha, sigma = (1 - t**2).sqrt(), t
        x_t = alpha * x.detach() + sigma * torch.randn(64, 1, generator=generator)
        estimates = []
        for m, s in ((1.0, 0.5), (mean.detach(), log_std.exp().detach())):
            gain = alpha * s**2 / (alpha**2 * s**2 + sigma**2)
            estimates.append(m + gain * (x_t - alpha * m))  # E[x₀ | x_t] of N(m, s²)
        optimizer.zero_grad()
        distribution_matching(x, *estimates).backward()
        optimizer.step()
    assert mean.item() == pytest.approx(1.0, abs=0.1)
    assert log_std.exp().item() == pytest.approx(0.5, abs=0.1)


def weights_of(logits: torch.Tensor, timesteps=None) -> torch.Tensor:
    timesteps = torch.zeros(len(logits), dtype=torch.int64) if timesteps is None else timesteps
    return f_distill_weights(logits, timesteps, num_train_timesteps=1000)


def test_samples_weigh_by_the_jensen_shannon_function_of_their_ratio():
    ratio = torch.tensor([0.5, 1.0, 1.5], dtype=torch.float64)  # of mean 1, so that it stays
    expected = ratio / (1 + ratio)
    assert torch.allclose(weights_of(ratio.log()), expected / expected.mean())


def test_the_average_weight_is_one_and_likely_samples_count_more():
    found = weights_of(torch.tensor([-3.0, 0.0, 3.0]))
    assert float(found.mean()) == pytest.approx(1)
    assert found[0] < found[1] < found[2]


def test_ratios_are_compared_within_a_tenth_of_the_time():
    """Noise makes all ratios similar, so that samples are compared with equally noisy ones."""
    logits = torch.tensor([0.1, -0.1, 2.0, -2.0, 0.7]).double()
    timesteps = torch.tensor([950, 999, 5, 99, 500])
    found = weights_of(logits, timesteps)
    ratio = torch.cat([part.exp() / part.exp().mean() for part in logits.split([2, 2, 1])])
    expected = ratio / (1 + ratio)
    assert torch.allclose(found, expected / expected.mean())
    shifted = weights_of(logits + torch.tensor([0.5, 0.5, 0, 0, 0]), timesteps)
    assert torch.allclose(shifted, found)


def test_extreme_logits_are_clipped_and_maps_of_logits_averaged():
    found = weights_of(torch.tensor([100.0, 0.0]).double())
    assert torch.allclose(found, weights_of(torch.tensor([20.0, 1.0]).double().log()))
    maps = torch.tensor([[[1.0, 3.0]], [[0.0, 0.0]]]).double()
    assert torch.allclose(weights_of(maps), weights_of(torch.tensor([2.0, 0.0]).double()))


def test_the_weights_give_the_discriminator_no_gradient():
    assert not weights_of(drawn(3).requires_grad_()).requires_grad


def test_contradictions_are_refused():
    x, real, fake = example()
    with pytest.raises(ValueError, match="differ in shape"):
        matching_gradient(x, real[:1], fake)
    with pytest.raises(ValueError, match=r"weights must be \[3\]"):
        distribution_matching(x, real, fake, weights=torch.ones(2))
    with pytest.raises(ValueError, match="whole numbers"):
        weights_of(drawn(3), torch.rand(3))
    with pytest.raises(ValueError, match="whole numbers"):
        weights_of(drawn(3), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="in 0 … 999"):
        weights_of(drawn(3), torch.tensor([0, 1, 1000]))
