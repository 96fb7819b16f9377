import math

import pytest
import torch

from distillation.losses.adversarial import approximate_r1, discriminator_loss, student_loss


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_discriminator_loss_is_the_binary_cross_entropy():
    fake, real = drawn(4), drawn(4, seed=1)
    expected = -(1 - fake.sigmoid()).log().mean() - real.sigmoid().log().mean()
    assert float(discriminator_loss(fake, real)) == pytest.approx(float(expected))


def test_the_loss_is_2_log_2_for_an_undecided_discriminator_and_0_for_a_certain_one():
    zero, sure = torch.zeros(3), torch.full((3,), 50.0)
    assert float(discriminator_loss(zero, zero)) == pytest.approx(2 * math.log(2))
    assert float(discriminator_loss(-sure, sure)) == pytest.approx(0, abs=1e-6)
    assert float(discriminator_loss(sure, -sure)) == pytest.approx(100)


def test_the_students_loss_is_the_discriminators_on_real_images():
    logits = drawn(4)
    assert float(student_loss(logits)) == pytest.approx(float(-logits.sigmoid().log().mean()))


def test_the_student_has_a_gradient_even_if_the_discriminator_is_certain():
    """The saturating form, E log(1 − sigmoid D), would give a gradient of nearly 0 here."""
    logits = torch.full((1,), -20.0, requires_grad=True)
    student_loss(logits).backward()
    assert float(logits.grad) == pytest.approx(-1)


def test_the_optimal_discriminator_is_the_logarithm_of_the_ratio_of_densities():
    """The weights of f-distill rely on it. Two outcomes have known probabilities."""
    teacher, student = torch.tensor([0.8, 0.2]).double(), torch.tensor([0.4, 0.6]).double()
    logits = (teacher / student).log().requires_grad_()
    loss = sum(
        student[i] * discriminator_loss(logits[i], torch.full((), 1e9).double())
        + teacher[i] * discriminator_loss(torch.full((), -1e9).double(), logits[i])
        for i in range(2)
    )
    loss.backward()
    assert logits.grad.tolist() == pytest.approx([0, 0], abs=1e-12)


def test_the_approximate_penalty_is_the_squared_gradient_of_a_smooth_discriminator():
    generator = torch.Generator().manual_seed(0)
    slope, scale = drawn(6), 0.01
    real = drawn(4000, 6, seed=1)
    noise = torch.randn(real.shape, generator=generator, dtype=torch.float64)

    def discriminator(x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x @ slope / 4)

    inputs = real.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator(inputs).sum(), inputs)
    exact = float(gradient.square().sum(1).mean())
    found = approximate_r1(discriminator(real), discriminator(real + scale * noise))
    assert float(found) / scale**2 == pytest.approx(exact, rel=0.08)


def test_the_penalty_reaches_both_logits_and_the_derivatives_are_right():
    real, perturbed = drawn(3).requires_grad_(), drawn(3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(approximate_r1, (real, perturbed))
    assert torch.autograd.gradcheck(discriminator_loss, (real, perturbed))
    assert torch.autograd.gradcheck(student_loss, (real,))


def test_logits_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match="differ in shape"):
        approximate_r1(drawn(3), drawn(3, 1))
