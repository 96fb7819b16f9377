import pytest
import torch

from distillation.losses.features import normalised_matching


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_loss_is_the_share_of_the_teachers_energy_that_is_missed():
    student, teacher = [drawn(1, 3, 2), drawn(1, 5)], [drawn(1, 3, 2, seed=1), drawn(1, 5, seed=2)]
    shares = [
        float((s - t).square().sum() / t.square().sum())
        for s, t in zip(student, teacher, strict=True)
    ]
    found = normalised_matching(student, teacher)
    assert float(found) == pytest.approx(sum(shares) / 2, rel=1e-5)


def test_the_loss_of_zero_features_is_one():
    teacher = [drawn(2, 3, 4), 50 * drawn(2, 6, seed=1)]
    student = [torch.zeros_like(features) for features in teacher]
    assert float(normalised_matching(student, teacher)) == pytest.approx(1, rel=1e-4)
    assert float(normalised_matching(teacher, teacher)) == 0


def test_layers_and_samples_count_equally_whatever_their_scale():
    student, teacher = (
        [drawn(2, 8), drawn(2, 8, seed=1)],
        [drawn(2, 8, seed=2), drawn(2, 8, seed=3)],
    )
    scale = torch.tensor([[1.0], [100.0]], dtype=torch.float64)
    plain = normalised_matching(student, teacher)
    scaled = normalised_matching(
        [student[0] * scale, 30 * student[1]], [teacher[0] * scale, 30 * teacher[1]]
    )
    assert float(scaled) == pytest.approx(float(plain), rel=1e-4)


def test_halves_of_a_batch_average_to_the_whole():
    """Gradients may be accumulated over small batches."""
    student, teacher = drawn(4, 8), drawn(4, 8, seed=1) * torch.tensor([1.0, 2, 3, 4])[:, None]
    halves = [
        normalised_matching([s], [t])
        for s, t in zip(student.split(2), teacher.split(2), strict=True)
    ]
    whole = normalised_matching([student], [teacher])
    assert float(whole) == pytest.approx(float(sum(halves)) / 2)


def test_a_teacher_with_zero_features_gives_a_finite_loss():
    student = drawn(1, 4).requires_grad_()
    loss = normalised_matching([student], [torch.zeros(1, 4)])
    loss.backward()
    assert loss.isfinite() and student.grad.isfinite().all()


def test_the_teacher_gets_no_gradient_and_the_derivative_is_right():
    student, teacher = drawn(2, 3).requires_grad_(), drawn(2, 3, seed=1).requires_grad_()
    normalised_matching([student], [teacher]).backward()
    assert teacher.grad is None
    assert torch.autograd.gradcheck(lambda s: normalised_matching([s], [teacher]), (student,))


def test_contradictions_are_refused():
    with pytest.raises(ValueError, match="as many layers"):
        normalised_matching([drawn(1, 2)], [])
    with pytest.raises(ValueError, match="at least one"):
        normalised_matching([], [])
    with pytest.raises(ValueError, match="Layer 1"):
        normalised_matching([drawn(1, 2), drawn(1, 2)], [drawn(1, 2), drawn(1, 3)])
