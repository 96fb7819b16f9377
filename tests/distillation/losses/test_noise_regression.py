import pytest
import torch

from distillation.losses.noise_regression import guided, noise_regression


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_the_loss_is_the_weighted_mean_of_squares():
    prediction, target = drawn(3, 2, 4), drawn(3, 2, 4, seed=1)
    weights = torch.tensor([1.0, 0.0, 3.0])
    errors = ((prediction - target) ** 2).mean((1, 2))
    assert float(noise_regression(prediction, target)) == pytest.approx(float(errors.mean()))
    found = noise_regression(prediction, target, weights=weights)
    assert float(found) == pytest.approx(float((errors[0] + 3 * errors[2]) / 3))


def test_the_target_is_a_constant_and_the_derivative_is_right():
    prediction, target = drawn(2, 3).requires_grad_(), drawn(2, 3, seed=1).requires_grad_()
    noise_regression(prediction, target).backward()
    assert target.grad is None
    assert torch.allclose(prediction.grad, (2 * (prediction - target) / 6).detach())
    assert torch.autograd.gradcheck(
        lambda p: noise_regression(p, target, weights=torch.tensor([1.0, 2.0])), (prediction,)
    )


def test_a_small_difference_survives_half_precision():
    prediction = torch.full((1, 4), 1.0, dtype=torch.bfloat16)
    target = torch.full((1, 4), 1.001)  # bf16 would round it to 1
    assert float(noise_regression(prediction, target)) == pytest.approx(1e-6, rel=1e-3)


def test_guidance_extrapolates_beyond_the_prediction_for_the_text():
    without, text = torch.zeros(1, 3), torch.ones(1, 3)
    assert guided(without, text, guidance_scale=7.5).tolist() == [[7.5] * 3]
    assert torch.equal(guided(without, text, guidance_scale=1.0), text)
    assert torch.equal(guided(without, text, guidance_scale=0.0), without)


def test_contradictions_are_refused():
    with pytest.raises(ValueError, match="differ in shape"):
        noise_regression(drawn(2, 3), drawn(2, 1))
    with pytest.raises(ValueError, match=r"weights must be \[2\]"):
        noise_regression(drawn(2, 3), drawn(2, 3), weights=torch.ones(2, 1))
    for bad in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="finite and not negative"):
            noise_regression(drawn(2, 3), drawn(2, 3), weights=torch.tensor([1.0, bad]))
    with pytest.raises(ValueError, match="differ in shape"):
        guided(drawn(2, 3), drawn(1, 3), guidance_scale=2.0)
