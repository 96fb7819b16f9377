import math

import pytest
import torch
from torch.nn import functional

from distillation.losses.noise_regression import noise_regression
from distillation.losses.soft_targets import (
    soft_loss,
    target_log_probabilities,
)


def logits(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def centred(values: torch.Tensor) -> torch.Tensor:
    return values - values.mean(1, keepdim=True)


def of_teacher(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    target = target_log_probabilities(teacher, temperature=temperature)
    return soft_loss(student, target, temperature=temperature)


def test_the_loss_is_the_divergence_of_the_softened_distributions():
    student, teacher = logits(0, 4, 5), logits(1, 4, 5)
    found = of_teacher(student, teacher, 3.0)
    p, q = (
        torch.distributions.Categorical(logits=values / 3.0, validate_args=True)
        for values in (teacher, student)
    )
    expected = 9.0 * torch.distributions.kl_divergence(p, q).mean()
    assert float(found) == pytest.approx(float(expected), rel=1e-12)


def test_the_gradient_is_that_of_the_cross_entropy_of_the_paper():
    student, teacher = logits(0, 4, 5).requires_grad_(), logits(1, 4, 5)
    of_teacher(student, teacher, 3.0).backward()
    expected = 3.0 * ((student / 3.0).softmax(1) - (teacher / 3.0).softmax(1)) / 4
    assert torch.allclose(student.grad, expected.detach(), rtol=1e-10)


def test_the_loss_is_zero_only_where_student_and_teacher_agree():
    teacher = logits(1, 4, 5)
    assert float(of_teacher(teacher + 7.0, teacher, 2.0)) == pytest.approx(0, abs=1e-12)
    assert float(of_teacher(teacher + logits(2, 4, 5), teacher, 2.0)) > 1e-3


def test_the_regression_is_the_high_temperature_limit_of_soft_targets():
    student, teacher = centred(logits(0, 4, 6)).requires_grad_(), centred(logits(1, 4, 6))
    regression = 0.5 * noise_regression(student, teacher)
    (wanted,) = torch.autograd.grad(regression, student)
    errors, gradient_errors = [], []
    for temperature in (10.0, 100.0, 1000.0):
        loss = of_teacher(student, teacher, temperature)
        (gradient,) = torch.autograd.grad(loss, student)
        errors.append(abs((loss / regression).item() - 1))
        gradient_errors.append(float((gradient - wanted).norm() / wanted.norm()))
    for found in (errors, gradient_errors):
        assert found[0] > 5 * found[1] > 25 * found[2]
        assert found[2] < 2e-3


def test_without_the_factor_gradients_fall_with_the_square_of_the_temperature():
    student, teacher = logits(0, 4, 6).requires_grad_(), logits(1, 4, 6)
    sizes = []
    for temperature in (100.0, 200.0):
        loss = of_teacher(student, teacher, temperature) / temperature**2
        sizes.append(float(torch.autograd.grad(loss, student)[0].norm()))
    assert sizes[0] / sizes[1] == pytest.approx(4, rel=0.02)


def test_uncentred_logits_are_not_regressed_as_they_are():
    """The softmax does not see a shift, the regression does: the limit is of centred logits only."""
    student, teacher = centred(logits(0, 4, 6)), centred(logits(1, 4, 6))
    shifted = of_teacher(student + 3.0, teacher, 1000.0)
    assert float(shifted) == pytest.approx(
        float(0.5 * noise_regression(student, teacher)), rel=1e-2
    )
    assert float(0.5 * noise_regression(student + 3.0, teacher)) > 2 * float(shifted)


def test_a_segmentation_is_softened_pixel_by_pixel():
    student, teacher = logits(0, 2, 3, 4, 5), logits(1, 2, 3, 4, 5)
    flat = [values.permute(0, 2, 3, 1).reshape(-1, 3) for values in (student, teacher)]
    expected = float(of_teacher(*flat, 2.0))
    assert float(of_teacher(student, teacher, 2.0)) == pytest.approx(expected, rel=1e-12)


def test_the_teacher_gets_no_gradient():
    student, teacher = logits(0, 4, 5).requires_grad_(), logits(1, 4, 5).requires_grad_()
    of_teacher(student, teacher, 2.0).backward()
    assert teacher.grad is None
    target = teacher.log_softmax(1)
    soft_loss(student, target, temperature=1.0).backward()
    assert teacher.grad is None


def test_the_derivative_is_right():
    teacher = logits(1, 2, 3)
    student = logits(0, 2, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: of_teacher(z, teacher, 2.0), (student,))


def test_half_precision_is_computed_in_single():
    student, teacher = logits(0, 4, 5).bfloat16(), logits(1, 4, 5).bfloat16()
    found = of_teacher(student, teacher, 20.0)
    assert found.dtype == torch.float32
    expected = of_teacher(student.double(), teacher.double(), 20.0)
    assert float(found) == pytest.approx(float(expected), rel=1e-3)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_an_invalid_temperature_is_refused(temperature):
    with pytest.raises(ValueError, match="temperature"):
        target_log_probabilities(logits(0, 2, 3), temperature=temperature)
    with pytest.raises(ValueError, match="temperature"):
        soft_loss(logits(0, 2, 3), logits(1, 2, 3).log_softmax(1), temperature=temperature)


def test_logits_in_place_of_log_probabilities_are_refused():
    with pytest.raises(ValueError, match="sum to 1, not logits"):
        soft_loss(logits(0, 2, 3), logits(1, 2, 3), temperature=1.0)


def test_other_contradictions_are_refused():
    with pytest.raises(ValueError, match="differ in shape"):
        soft_loss(logits(0, 2, 3), functional.log_softmax(logits(1, 2, 4), 1), temperature=1.0)
