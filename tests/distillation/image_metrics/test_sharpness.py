import math

import pytest
import torch

from distillation.image_metrics import sharpness
from tests.distillation.evaluation.drawings import drawings


def grey(values: torch.Tensor) -> torch.Tensor:
    """RGB [1, 3, h, w] of one luma."""
    return values.expand(1, 3, *values.shape)


def test_the_gradient_of_a_ramp_is_its_slope_and_of_a_flat_picture_none():
    across = 3.0 * torch.arange(16.0).expand(16, 16)
    both = across + 4.0 * torch.arange(16.0)[:, None]
    assert sharpness.gradient(grey(across)).tolist() == pytest.approx([3.0], rel=1e-4)
    assert sharpness.gradient(grey(both)).tolist() == pytest.approx([5.0], rel=1e-4)
    assert sharpness.gradient(grey(torch.full((16, 16), 90.0))).tolist() == pytest.approx([0.0])


def test_the_laplacian_variance_of_a_chessboard_follows_the_formula():
    """Each pixel is 0 or 10 and its four neighbours are the other: the Laplacian is +40 or −40."""
    board = 10.0 * ((torch.arange(18)[:, None] + torch.arange(18)) % 2)
    assert sharpness.laplacian_variance(grey(board)).tolist() == pytest.approx([1600.0], rel=1e-4)


def test_a_colour_counts_by_its_luma():
    green = torch.zeros(1, 3, 8, 8)
    green[:, 1, :, 4:] = 100
    expected = 58.7 / 7  # one of seven columns has the edge
    assert sharpness.gradient(green).tolist() == pytest.approx([expected], rel=1e-4)


def test_both_measures_fall_with_blur_and_rise_with_noise():
    sharp = drawings(range(8))
    noisy = sharp + 8 * torch.randn(sharp.shape, generator=torch.Generator().manual_seed(0))
    for measure in (sharpness.gradient, sharpness.laplacian_variance):
        values = [float(measure(drawings(range(8), blur=blur)).mean()) for blur in (0, 0.5, 1, 2)]
        assert values == sorted(values, reverse=True) and values[2] < 0.8 * values[0]
        assert float(measure(noisy).mean()) > values[0]  # noise is not distinguished from detail


def test_squares_are_scaled_down_and_never_up():
    wide = drawings(range(1), side=64)[:, :, 8:56]
    assert sharpness.squares(wide, 32).shape == (1, 3, 32, 32)
    assert torch.equal(sharpness.squares(wide, 48), wide[:, :, :, 8:56].float())
    with pytest.raises(ValueError, match="64 × 48"):
        sharpness.squares(wide, 64)
    flat = torch.full((1, 3, 64, 64), 70, dtype=torch.uint8)
    assert math.isclose(float(sharpness.squares(flat, 20).mean()), 70, rel_tol=1e-4)
