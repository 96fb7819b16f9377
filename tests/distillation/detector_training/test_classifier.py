from pathlib import Path

import pytest
import torch

from distillation.detector.network import DetectorConfig
from distillation.detector_training import classifier as trainer
from distillation.detector_training.augmentation import Augmentation
from distillation.detector_training.classifier import DetectorRecipe, DetectorTask

CONFIG = DetectorConfig(
    bits=("red", "green", "low", "high"),
    groups=(2, 2),
    image_size=16,
    widths=(8, 16),
    depths=(0, 1),
)
RECIPE = DetectorRecipe(
    steps=60,
    batch=16,
    learning_rate=1e-2,
    warmup=5,
    augmentation=Augmentation(shift=0.02, blurred=0.2, blocked=0.2),
)


def make_squares(count: int, *, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A red or green square in the upper or the lower half: (images, bits)."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(60, 120, (count, 3, 16, 16), generator=generator, dtype=torch.uint8)
    bits = torch.zeros(count, 4)
    for index in range(count):
        colour, place = index % 2, index // 2 % 2
        row = 9 if place == 0 else 1
        images[index, colour, row : row + 6, 4:12] = 230
        bits[index, colour] = bits[index, 2 + place] = 1
    return images, bits


def train(folder: Path, recipe: DetectorRecipe = RECIPE):
    images, bits = make_squares(64, seed=0)
    validation_images, validation_bits = make_squares(32, seed=1)
    return trainer.train(
        recipe,
        images=images,
        bits=bits,
        validation_images=validation_images,
        validation_bits=validation_bits,
        config=CONFIG,
        folder=folder,
        progress_bar=False,
    )


def test_the_classifier_learns_the_bits_and_is_saved_calibrated(tmp_path: Path) -> None:
    detector = train(tmp_path)
    images, bits = make_squares(40, seed=2)
    present = detector.probabilities(images) >= detector.thresholds
    assert (present == bits.bool()).float().mean() > 0.95
    assert not detector.temperatures.equal(torch.ones(4))
    assert (tmp_path / "detector" / "config.json").exists()
    assert (tmp_path / "metrics.jsonl").exists()


def test_a_step_depends_on_its_index_and_generator_alone() -> None:
    images, bits = make_squares(32, seed=0)
    weights = []
    for _ in range(2):
        task = DetectorTask(RECIPE, CONFIG, images=images, bits=bits)
        losses = [task.step(i, torch.Generator().manual_seed(i)) for i in range(3)]
        assert all(0 < loss["loss"] < 2 for loss in losses)
        weights.append(torch.cat([p.detach().flatten() for p in task.detector.parameters()]))
    assert weights[0].equal(weights[1])


def test_a_warmup_longer_than_the_training_is_refused() -> None:
    with pytest.raises(ValueError, match="warmup must"):
        DetectorRecipe(steps=3, warmup=4)
