import pytest
import torch

from distillation.losses.pairs import pair_regression, perceptual, pseudo_huber


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network(channels: int, *, seed: int) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return torch.nn.Sequential(
            torch.nn.Conv2d(channels, 3, 3, padding=1), torch.nn.Tanh()
        ).double()


DECODER = network(2, seed=0).requires_grad_(False)
FEATURES = network(3, seed=1).requires_grad_(False)


def features(images: torch.Tensor) -> list[torch.Tensor]:
    return [images, FEATURES(images)]


def perceptual_loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return perceptual(output, target, decoder=DECODER, features=features)


def test_pseudo_huber_is_square_when_small_and_absolute_when_large():
    zero = torch.zeros(1, 4, dtype=torch.float64)
    for difference, expected in ((1e-5, 1e-10 / 2e-3), (2.0, 2 - 1e-3)):
        found = pseudo_huber(zero + difference, zero, c=1e-3)
        assert float(found) == pytest.approx(expected, rel=1e-4)


def test_pseudo_huber_follows_its_equation():
    output, target = drawn(2, 3), drawn(2, 3, seed=1)
    expected = (((output - target) ** 2 + 0.25).sqrt() - 0.5).mean()
    assert float(pseudo_huber(output, target, c=0.5)) == pytest.approx(float(expected))


def test_pseudo_huber_keeps_small_errors_in_single_precision():
    output = torch.full((4,), 1e-4)
    found = pseudo_huber(output, torch.zeros(4), c=1.0)
    assert float(found) == pytest.approx(5e-9, rel=1e-5)  # √(1e-8 + 1) − 1 is 0 in fp32


def test_perceptual_is_the_distance_of_unit_features_of_the_images():
    output, target = drawn(2, 2, 4, 4), drawn(2, 2, 4, 4, seed=1)
    expected = 0.0
    for ours, theirs in zip(features(DECODER(output)), features(DECODER(target)), strict=True):
        a, b = (maps / maps.norm(dim=1, keepdim=True) for maps in (ours, theirs))
        expected += float((a - b).square().sum(1).mean())
    assert float(perceptual_loss(output, target)) == pytest.approx(expected, rel=1e-4)
    assert float(perceptual_loss(target, target)) == 0


def test_the_perceptual_loss_ignores_channels_that_the_decoder_drops():
    """The decoder of this test uses the first channel alone."""
    target = drawn(1, 2, 4, 4)
    other = target.clone()
    other[:, 1] += 5

    def first_channel(latents: torch.Tensor) -> torch.Tensor:
        return latents[:, :1].repeat(1, 3, 1, 1)

    assert float(perceptual(other, target, decoder=first_channel, features=features)) == 0
    assert float(perceptual_loss(other, target)) > 1e-3


def test_the_pair_regression_is_the_weighted_sum():
    output, target = drawn(2, 2, 4, 4), drawn(2, 2, 4, 4, seed=1)
    expected = perceptual_loss(output, target) + 0.3 * pseudo_huber(output, target, c=0.01)
    found = pair_regression(
        output, target, decoder=DECODER, features=features, huber_weight=0.3, c=0.01
    )
    assert float(found) == pytest.approx(float(expected))


def test_the_target_gets_no_gradient_and_the_derivative_is_right():
    output, target = (drawn(1, 2, 3, 3, seed=s).requires_grad_() for s in (0, 1))
    pair_regression(output, target, decoder=DECODER, features=features, c=0.1).backward()
    assert target.grad is None
    assert torch.autograd.gradcheck(
        lambda x: pair_regression(x, target, decoder=DECODER, features=features, c=0.1), (output,)
    )


def test_zero_features_give_finite_gradients():
    output = torch.zeros(1, 2, 4, 4, requires_grad=True)
    loss = perceptual(
        output, drawn(1, 2, 4, 4).float(), decoder=lambda x: x, features=lambda x: [x]
    )
    loss.backward()
    assert loss.isfinite() and output.grad.isfinite().all()


def test_decoder_and_features_run_in_single_precision_even_under_autocast():
    received = []

    def decoder(latents: torch.Tensor) -> torch.Tensor:
        images = torch.nn.functional.conv2d(latents, torch.ones(3, 2, 1, 1))
        received.extend([latents.dtype, images.dtype])
        return images

    half = drawn(1, 2, 4, 4).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = perceptual(half, half + 1, decoder=decoder, features=lambda images: [images])
    assert set(received) == {torch.float32} and found.dtype == torch.float32


def test_contradictions_are_refused():
    output = drawn(1, 2, 4, 4)
    with pytest.raises(ValueError, match="differ in shape"):
        pseudo_huber(output, output[:, :1])
    with pytest.raises(ValueError, match="differ in shape"):
        perceptual_loss(output, output[:, :1])
    with pytest.raises(ValueError, match="c must be positive"):
        pseudo_huber(output, output, c=0.0)
    with pytest.raises(ValueError, match="at least 1"):
        perceptual(output, output, decoder=DECODER, features=lambda images: [])
    with pytest.raises(ValueError, match=r"\[B, C, H, W\]"):
        perceptual(output, output, decoder=DECODER, features=lambda images: [images.mean((2, 3))])
    with pytest.raises(ValueError, match="huber_weight"):
        pair_regression(output, output, decoder=DECODER, features=features, huber_weight=-1.0)
