from dataclasses import replace
from pathlib import Path

import pytest
import torch

from distillation.detector import labels
from distillation.detector_training import segmentation as trainer
from distillation.detector_training.augmentation import Augmentation
from distillation.detector_training.framing import Framing
from distillation.detector_training.segmentation import SegmentationRecipe, SegmentationTask
from tests.distillation.detector.folders import MASKS, SIZE, make_labelled

RECIPE = SegmentationRecipe(
    steps=50,
    batch=16,
    learning_rate=1e-2,
    warmup=5,
    augmentation=Augmentation(is_mirrored=False, moved=0, blurred=0.2, blocked=0.2),
)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> tuple[torch.Tensor, torch.Tensor]:
    found = labels.read(make_labelled(tmp_path_factory.mktemp("labelled"), 80))
    return found.images(SIZE), found.masks(SIZE)


def train(pictures, folder: Path, recipe: SegmentationRecipe = RECIPE, *, false_accepts=0.05):
    images, masks = pictures
    return trainer.train(
        recipe,
        images=images[:56],
        masks=masks[:56],
        validation_images=images[56:],
        validation_masks=masks[56:],
        config=MASKS,
        false_accepts=false_accepts,
        folder=folder,
        progress_bar=False,
    )


def test_the_network_finds_the_object_and_whether_it_is_cut_off_or_small(pictures, tmp_path):
    unet = train(pictures, tmp_path)
    images, masks = pictures
    found = unet.mask_logits(images[56:]) > 0
    true = trainer.reduced(masks[56:], unet.config) > 0
    assert trainer.overlap(found.long(), true.long()) > 0.6
    # Every whole object of the usual size is larger than `smallest`.
    assert 0.05 < unet.config.smallest < float(true.float().mean((1, 2)).min())
    framed, maps = Framing(moved=1)(
        images[56:].float() / 127.5 - 1, true.float()[:, None], torch.Generator().manual_seed(5)
    )
    bits, known = trainer.true_bits(maps[:, 0] > 0.5, unet.config)
    predicted = (
        unet.probabilities(((framed + 1) * 127.5).round().to(torch.uint8)) >= unet.thresholds
    )
    assert (predicted == bits)[known].float().mean() > 0.75
    assert not unet.temperatures.equal(torch.ones(2))


def test_an_interrupted_training_ends_with_the_same_weights(pictures, tmp_path, monkeypatch):
    recipe = replace(RECIPE, steps=6)
    whole = train(pictures, tmp_path / "whole", recipe)

    step, made = SegmentationTask.step, []

    def stop_once(self, index, generator):
        if index == 3 and not made:
            made.append(index)
            raise KeyboardInterrupt
        return step(self, index, generator)

    real_run = trainer.loop.run
    monkeypatch.setattr(SegmentationTask, "step", stop_once)
    monkeypatch.setattr(
        trainer.loop, "run", lambda *a, **k: real_run(*a, **k, checkpoint_every_seconds=0.0)
    )
    with pytest.raises(KeyboardInterrupt):
        train(pictures, tmp_path / "stopped", recipe)
    again = train(pictures, tmp_path / "stopped", recipe)
    for name, value in whole.state_dict().items():
        assert value.equal(again.state_dict()[name]), name


def test_borders_between_two_objects_weigh_more(pictures):
    images, masks = pictures
    two = torch.zeros_like(masks)
    two[:, 8:24, 2:14], two[:, 8:24, 18:30] = 1, 2
    task = SegmentationTask(RECIPE, MASKS, images=images, masks=two)
    weights = task._maps[0, 1]
    assert weights[8, 8] > 3 * weights[1, 1]


def test_an_object_that_barely_touches_the_border_decides_nothing():
    masks = torch.zeros(3, 16, 16, dtype=torch.bool)
    masks[0, 4:10, 4:10] = masks[1, 0:6, 4:7] = masks[2, 0:6, 4:12] = True
    bits, known = trainer.true_bits(masks, MASKS)
    assert known[:, 0].tolist() == [True, False, True]
    assert bits[[0, 2], 0].tolist() == [True, False]
