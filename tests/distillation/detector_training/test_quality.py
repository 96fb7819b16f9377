from dataclasses import replace
from pathlib import Path

import pytest
import torch

from distillation.detector import labels
from distillation.detector.labels import UNKNOWN
from distillation.detector.network import Detector, DetectorConfig, as_float
from distillation.detector_training import degradations, quality
from distillation.detector_training.augmentation import Augmentation
from distillation.detector_training.quality import QualityRecipe, QualityTask
from tests.distillation.detector.folders import SIZE, make_labelled

MILD = Augmentation(shift=0.02, blurred=0, blocked=0, noise=0.02)
RECIPE = QualityRecipe(steps=60, batch=24, learning_rate=1e-2, warmup=5, sound=MILD, wear=MILD)
CONFIG = DetectorConfig(
    bits=("red", "green", "low", "high", "sharp", "clean"),
    groups=(2, 2, 1, 1),
    image_size=SIZE,
    widths=(8, 16),
    depths=(0, 1),
)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> tuple[torch.Tensor, torch.Tensor]:
    found = labels.read(make_labelled(tmp_path_factory.mktemp("labelled"), 96))
    vocabulary = found.vocabulary.extended(degradations.BITS)
    return found.images(SIZE), found.truth(vocabulary)


def train(pictures, folder: Path, recipe=RECIPE, *, begins_with=None, false_accepts=0.05):
    images, bits = pictures
    return quality.train(
        recipe,
        images=images[:72],
        bits=bits[:72],
        validation_images=images[72:],
        validation_bits=bits[72:],
        config=CONFIG,
        begins_with=begins_with,
        false_accepts=false_accepts,
        folder=folder,
        title="quality",
        progress_bar=False,
    )


@pytest.mark.slow
def test_the_network_learns_the_labels_and_detects_spoilt_pictures(pictures, tmp_path):
    detector = train(pictures, tmp_path)
    images, bits = pictures
    present = detector.probabilities(images[72:]) >= detector.thresholds
    right = (present == bits[72:].bool()).float().mean(0)
    assert right[:2].min() > 0.9
    for way, bit in (("blank", 5), ("salted", 5), ("garbage", 5)):
        made, _ = SPOILING.spoil(way, as_float(images[72:]), torch.Generator().manual_seed(1))
        spoilt = ((made + 1) * 127.5).round().to(torch.uint8)
        present = detector.probabilities(spoilt) >= detector.thresholds
        assert present[:, bit].float().mean() < 0.4, way


SPOILING = degradations.Spoiling()


def test_a_lower_false_accept_rate_raises_the_thresholds(pictures, tmp_path):
    recipe = replace(RECIPE, steps=10)
    strict = train(pictures, tmp_path / "strict", recipe, false_accepts=0.0).thresholds
    loose = train(pictures, tmp_path / "loose", recipe, false_accepts=0.3).thresholds
    assert (strict >= loose).all() and (strict > loose).any()


def test_unknown_bits_are_not_trained(pictures):
    images, bits = pictures
    unknown = bits.clone()
    unknown[:, 0] = UNKNOWN
    task = QualityTask(replace(RECIPE, weight_decay=0.0), CONFIG, images=images, bits=unknown)
    before = task.detector.head.weight[0].clone()
    task.step(0, torch.Generator().manual_seed(0))
    assert task.detector.head.weight[0].equal(before)
    assert not task.detector.head.weight[1].equal(torch.zeros(16))


def test_training_begins_with_a_detector_of_other_bits(pictures):
    images, bits = pictures
    torch.manual_seed(7)
    other = Detector(replace(CONFIG, bits=("low", "blue"), groups=(2,)))
    task = QualityTask(RECIPE, CONFIG, images=images, bits=bits, begins_with=other)
    assert task.detector.stem[0].weight.equal(other.stem[0].weight)
    assert task.detector.head.weight[2].equal(other.head.weight[0])
    with pytest.raises(ValueError, match="cannot initialise"):
        quality.take_over(task.detector, Detector(replace(CONFIG, widths=(4, 8))))


def test_a_bit_that_never_changes_cannot_be_calibrated(pictures, tmp_path):
    images, bits = pictures
    same = bits.clone()
    same[72:, 0], same[72:, 1] = 1, 0
    with pytest.raises(ValueError, match="bit red is the same in all"):
        train((images, same), tmp_path, replace(RECIPE, steps=2, warmup=1))
