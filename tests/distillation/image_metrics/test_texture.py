"""Texture distinguishes sharp pictures from blurred ones of the same kind; the features of a CLIP do not."""

from pathlib import Path

import pytest
import torch

from distillation.evaluation import clip
from distillation.image_metrics import distances, texture
from distillation.runs.inputs import STARTER_JUDGES
from tests.distillation.evaluation.drawings import drawings

OTHERS = range(
    1000, 1048
)  # the reference: drawings of the same kind that share nothing with the judged ones
TOKENIZER = Path("generation/starter/teacher-2/tokenizer")


@pytest.fixture(scope="module")
def reference() -> torch.Tensor:
    return drawings(OTHERS)


def textures(images: torch.Tensor, reference: torch.Tensor) -> distances.Interval:
    return texture.distance(texture.features(images), texture.features(reference))


def test_a_blurred_set_has_a_distance_and_a_sharp_one_has_none(reference):
    sharp = textures(drawings(range(48)), reference)
    blurred = textures(drawings(range(48), blur=1.0), reference)
    assert sharp.low < 0 < sharp.high
    assert blurred.low > 5 * sharp.high


def test_the_features_of_a_clip_hardly_distinguish_blurred_pictures(reference):
    """Why there is a distance of texture: by the CLIP of the starter the blurred set is as near as the sharp one."""
    judge = clip.load(STARTER_JUDGES / "clip", tokenizer=TOKENIZER)
    of_reference = judge.image_features(reference)
    sharp, blurred = (
        distances.distance(judge.image_features(drawings(range(48), blur=blur)), of_reference)
        for blur in (0.0, 1.0)
    )
    for name in ("kid", "cmmd"):
        before, after = getattr(sharp, name), getattr(blurred, name)
        assert abs(after.value - before.value) < 0.1 * (before.high - before.low)


def test_blurred_pictures_of_the_same_noise_have_a_distance():
    sharp, blurred = (
        texture.features(drawings(range(48), blur=blur)).unflatten(0, (24, 2))
        for blur in (0.0, 1.0)
    )
    assert texture.paired_distance(blurred, sharp).low > 0
    itself = texture.paired_distance(sharp, sharp)
    assert abs(itself.value) < 1e-6


def test_pictures_too_small_for_its_scales_are_refused():
    small = torch.zeros(1, 3, texture.MIN_SIDE - 1, 64, dtype=torch.uint8)
    with pytest.raises(ValueError, match=str(texture.MIN_SIDE)):
        texture.features(small)
    assert texture.features(drawings(range(1), side=texture.MIN_SIDE)).shape == (1, 96)
