from dataclasses import replace

import pytest
import torch

from distillation.detector_training.augmentation import Augmentation, quantise_blocks

NOTHING = Augmentation(
    is_mirrored=False, moved=0, brightness=0, contrast=0, noise=0, blurred=0, blocked=0
)


def make_images(count: int = 6, size: int = 32) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(3)) * 1.6 - 0.8


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_augmentation_depends_on_the_generator_alone() -> None:
    images = make_images()
    first = Augmentation()(images, generator())
    assert first.equal(Augmentation()(images, generator()))
    assert not first.equal(Augmentation()(images, generator(1)))
    assert images.equal(make_images())  # which is not changed


def test_shape_and_range_are_kept() -> None:
    changed = Augmentation(brightness=0.9, noise=0.5)(make_images(), generator())
    assert changed.shape == (6, 3, 32, 32)
    assert -1 <= changed.min() < changed.max() <= 1


def test_amounts_of_zero_change_nothing() -> None:
    assert torch.allclose(NOTHING(make_images(), generator()), make_images(), atol=1e-6)


def test_about_half_are_mirrored() -> None:
    images = make_images(40)
    changed = replace(NOTHING, is_mirrored=True)(images, generator())
    mirrored = [
        torch.allclose(c, i.flip(-1), atol=1e-6) for c, i in zip(changed, images, strict=True)
    ]
    same = [torch.allclose(c, i, atol=1e-6) for c, i in zip(changed, images, strict=True)]
    assert sum(mirrored) + sum(same) == 40
    assert 10 < sum(mirrored) < 30


def test_brightness_and_contrast_change_no_hue() -> None:
    images = make_images()
    changed = replace(NOTHING, brightness=0.1, contrast=0.15)(images, generator())
    ratio = (changed[:, 0] - changed[:, 1]) / (images[:, 0] - images[:, 1])
    other = (changed[:, 1] - changed[:, 2]) / (images[:, 1] - images[:, 2])
    assert torch.allclose(ratio.median(), other.median(), atol=0.02)
    assert not torch.allclose(changed, images, atol=0.02)


def test_blocks_lose_more_the_coarser_they_are() -> None:
    images = make_images()
    errors = [(quantise_blocks(images, c) - images).abs().mean() for c in (0.01, 0.3, 1.5)]
    assert errors[0] < 0.01 < errors[1] < errors[2]


def test_a_flat_image_survives_the_blocks() -> None:
    flat = torch.tensor([0.5, -0.2, 0.1]).view(1, 3, 1, 1).expand(1, 3, 16, 16)
    assert (quantise_blocks(flat, 1.0) - flat).abs().max() < 0.05


def test_images_that_are_not_whole_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match="whole blocks"):
        quantise_blocks(torch.zeros(1, 3, 12, 16), 1.0)
