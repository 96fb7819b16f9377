import pytest
import torch

from distillation.detector.labels import LEARNT, UNKNOWN
from distillation.detector_training.degradations import BITS, WAYS, Spoiling


def make_images(count: int = 6) -> torch.Tensor:
    """A bright square with a hard edge on a ground of fine stripes, −1 to 1."""
    images = torch.full((count, 3, 32, 32), -0.2)
    images[..., ::2] = 0.1
    images[:, 0, 8:24, 8:24] = 0.9
    return images


def detail(images: torch.Tensor) -> torch.Tensor:
    return (images[..., 1:] - images[..., :-1]).abs().mean()


@pytest.mark.parametrize("way", WAYS)
def test_every_way_spoils_within_the_range_and_names_missing_bits(way):
    images = make_images()
    spoilt, bits = Spoiling().spoil(way, images, torch.Generator().manual_seed(0))
    assert spoilt.shape == images.shape and spoilt.abs().max() <= 1
    assert (spoilt - images).abs().mean() > 0.02
    assert 0.0 in bits and bits.shape == (6, 2)
    assert images.equal(make_images())  # which are not changed


@pytest.mark.parametrize("way", ["blurred", "rescaled", "moved"])
def test_pictures_that_are_not_sharp_have_less_detail(way):
    spoilt, bits = Spoiling().spoil(way, make_images(), torch.Generator().manual_seed(1))
    assert detail(spoilt) < 0.8 * detail(make_images())
    assert (bits[:, 0] == 0).all()


def test_each_picture_is_spoilt_in_its_own_way_drawn_by_the_generator():
    first, second = (
        Spoiling()(make_images(40), torch.Generator().manual_seed(2)) for _ in range(2)
    )
    assert first[0].equal(second[0]) and first[1].equal(second[1])
    assert len({tuple(row) for row in first[1].tolist()}) > 2
    assert set(first[1].unique().tolist()) == {UNKNOWN, 0.0, 1.0}


def test_the_bits_of_degradations_need_no_labels():
    assert set(BITS) <= set(LEARNT)
