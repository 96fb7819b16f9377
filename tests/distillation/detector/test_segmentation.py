from pathlib import Path

import pytest
import torch

from distillation.detector import segmentation
from distillation.detector.errors import DetectorUnusable
from distillation.detector.segmentation import SegmentationConfig, UNet, bit_logits
from tests.distillation.detector.folders import MASKS, SIZE

IMAGES = torch.randint(0, 256, (3, 3, SIZE, SIZE), dtype=torch.uint8)


def logits_of(top: int, left: int, side: int) -> torch.Tensor:
    """Return logits [1, 16, 16] of a mask that is certain of a square."""
    mask = torch.full((1, 16, 16), -10.0)
    mask[:, top : top + side, left : left + side] = 10
    return mask


@pytest.mark.parametrize(
    ("square", "is_whole", "is_large"),
    [
        ((4, 4, 6), True, True),
        ((4, 4, 2), True, False),
        ((0, 4, 6), False, True),
        ((4, 12, 4), False, True),
        ((0, 4, 2), True, False),  # two pixels of the rim are tolerated
    ],
)
def test_the_bits_follow_from_the_mask(square, is_whole, is_large):
    found = bit_logits(logits_of(*square), MASKS) > 0
    assert found.tolist() == [[is_whole, is_large]]


def test_an_empty_mask_is_not_large():
    assert not bit_logits(torch.full((1, 16, 16), -10.0), MASKS)[0, 1] > 0


def test_a_mask_has_the_reduced_size_and_is_the_same_alone_and_among_others():
    torch.manual_seed(0)
    unet = UNet(MASKS).train()
    together = unet.mask_logits(IMAGES)
    assert together.shape == (3, 16, 16) and unet.training
    assert torch.allclose(
        together, torch.cat([unet.mask_logits(one[None]) for one in IMAGES]), atol=1e-5
    )


def test_a_loaded_network_predicts_as_the_saved_one(tmp_path: Path):
    torch.manual_seed(0)
    unet = UNet(MASKS)
    unet.temperatures.copy_(torch.tensor([0.5, 3]))
    unet.thresholds.copy_(torch.tensor([0.1, 0.9]))
    segmentation.save(unet, tmp_path)
    loaded = segmentation.load(tmp_path)
    assert loaded.config == MASKS and not loaded.training
    assert loaded.probabilities(IMAGES).equal(unet.probabilities(IMAGES))
    segmentation.save(unet, tmp_path, dtype=torch.float16)
    halved = segmentation.load(tmp_path)
    assert halved.thresholds.equal(unet.thresholds)
    assert torch.allclose(halved.probabilities(IMAGES), unet.probabilities(IMAGES), atol=0.02)


def test_a_damaged_file_is_refused(tmp_path: Path):
    segmentation.save(UNet(MASKS), tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no")
    with pytest.raises(DetectorUnusable, match="no usable segmentation"):
        segmentation.load(tmp_path)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="halved"):
        SegmentationConfig(image_size=36, widths=(4, 8, 16, 32))
    with pytest.raises(ValueError, match="Scale them first"):
        UNet(MASKS).probabilities(IMAGES[:, :, :16])
