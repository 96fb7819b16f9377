"""The IoU of shapes is independent of position, size and mirroring, and falls when a part is missing."""

import torch

from distillation.starter.report.shape import SIDE, iou, normalised


def mug(top: int, left: int, scale: int, *, has_handle: bool = True) -> torch.Tensor:
    """Return the mask of a body with a handle on its right, bool [128, 128]."""
    mask = torch.zeros(128, 128, dtype=torch.bool)
    mask[top : top + 8 * scale, left : left + 6 * scale] = True
    if has_handle:
        mask[top + 2 * scale : top + 6 * scale, left + 6 * scale : left + 9 * scale] = True
    return mask


def test_position_size_and_mirroring_do_not_matter() -> None:
    reference = normalised(mug(40, 30, 6))[None]
    for other in (mug(10, 60, 6), mug(60, 5, 4), mug(40, 30, 6).flip(1)):
        assert iou(normalised(other), reference).item() > 0.93


def test_a_missing_handle_lowers_the_iou() -> None:
    reference = normalised(mug(40, 30, 6))[None]
    assert iou(normalised(mug(40, 30, 6, has_handle=False)), reference).item() < 0.85


def test_the_longer_side_fills_the_normalised_mask() -> None:
    mask = normalised(mug(40, 30, 6))
    assert mask.shape == (SIDE, SIDE) and mask.any(0).all() and not mask.any(1).all()


def test_an_empty_mask_has_an_iou_of_zero() -> None:
    empty = normalised(torch.zeros(128, 128, dtype=torch.bool))
    assert not empty.any()
    assert iou(empty, normalised(mug(40, 30, 6))[None]).item() == 0
