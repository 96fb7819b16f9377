"""Shapes are compared whatever their place, size and side, and a missing part counts."""

import torch

from distillation.starter.report.shape import SIDE, compared, overlaps


def mug(top: int, left: int, scale: int, *, has_handle: bool = True) -> torch.Tensor:
    """Return the mask of a body, and a handle at its right, in a picture of 128 pixels."""
    mask = torch.zeros(128, 128, dtype=torch.bool)
    mask[top : top + 8 * scale, left : left + 6 * scale] = True
    if has_handle:
        mask[top + 2 * scale : top + 6 * scale, left + 6 * scale : left + 9 * scale] = True
    return mask


def test_place_size_and_side_do_not_count() -> None:
    known = compared(mug(40, 30, 6))[None]
    for other in (mug(10, 60, 6), mug(60, 5, 4), mug(40, 30, 6).flip(1)):
        assert overlaps(compared(other), known).item() > 0.93


def test_a_missing_handle_counts() -> None:
    known = compared(mug(40, 30, 6))[None]
    assert overlaps(compared(mug(40, 30, 6, has_handle=False)), known).item() < 0.85


def test_the_longer_side_fills_the_compared_mask() -> None:
    mask = compared(mug(40, 30, 6))
    assert mask.shape == (SIDE, SIDE) and mask.any(0).all() and not mask.any(1).all()


def test_a_picture_without_an_object_is_near_nothing() -> None:
    nothing = compared(torch.zeros(128, 128, dtype=torch.bool))
    assert not nothing.any()
    assert overlaps(nothing, compared(mug(40, 30, 6))[None]).item() == 0
