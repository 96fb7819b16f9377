"""The error of texture depends on the strength of detail, not on the place of each grain."""

import pytest
import torch
from torch.nn import functional

from distillation.losses.texture import texture_error


def grain(seed: int, *, strength: float = 0.1) -> torch.Tensor:
    return strength * torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


def test_other_grain_of_the_same_strength_is_nearer_than_smooth_or_stronger_pictures() -> None:
    target = grain(1)
    same = texture_error(grain(2), target)
    assert same < 0.2 * texture_error(torch.zeros_like(target), target)
    assert same < 0.2 * texture_error(grain(2, strength=0.2), target)
    assert texture_error(target, target) == 0


def test_the_error_depends_on_the_direction_of_the_texture() -> None:
    stripes = torch.tensor([-0.2, 0.2]).repeat(32).expand(1, 3, 64, 64)
    assert texture_error(stripes.transpose(2, 3), stripes) > 0.05


def test_the_error_depends_on_the_place_of_the_texture() -> None:
    left = grain(1)
    left[..., 32:] = 0
    assert texture_error(left.flip(3), left) > 0.05


def test_a_blurred_picture_is_worse_the_more_it_is_blurred() -> None:
    target = grain(3)
    errors = [
        texture_error(functional.avg_pool2d(target, size, 1, size // 2), target)
        for size in (1, 3, 5)
    ]
    assert errors[0] < errors[1] < errors[2]


def test_pictures_of_a_few_pixels_have_an_error_and_a_gradient() -> None:
    output = torch.zeros(1, 3, 8, 8, requires_grad=True)
    texture_error(output, torch.ones(1, 3, 8, 8).cumsum(3) / 8).backward()
    assert output.grad is not None and output.grad.isfinite().all()


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError):
        texture_error(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 16, 16))
