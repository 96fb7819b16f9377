"""Training of the starter's detector on photographs with known bits, and its calibration."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from distillation.detector import calibration, network
from distillation.detector.labels import UNKNOWN
from distillation.detector.network import Detector, DetectorConfig, as_float
from distillation.detector_training.augmentation import Augmentation
from distillation.training import checks, loop, networks
from distillation.training.optimizers import adamw
from distillation.training.task import Trained


@dataclass(frozen=True)
class TrainingRecipe:
    """AdamW with a cosine schedule after a warm-up; every batch is drawn with replacement."""

    steps: int
    batch: int = 64
    learning_rate: float = 3e-3  # peak
    warmup: int = 60
    weight_decay: float = 0.02
    is_bf16: bool = True  # forward passes, twice as fast; weights and updates stay fp32
    seed: int = 0

    def __post_init__(self) -> None:
        checks.at_least_1(self, "steps")
        if self.batch < 2:
            raise ValueError(f"batch must be at least 2, not {self.batch}.")
        checks.at_most(self, "warmup", self.steps, "steps")
        checks.positive(self, "learning_rate")
        checks.not_negative(self, "weight_decay")


@dataclass(frozen=True)
class DetectorRecipe(TrainingRecipe):
    steps: int = 1100
    augmentation: Augmentation = field(default_factory=Augmentation)


class BitsTask(Trained):
    """The detector under training, for `distillation.training.loop`."""

    def __init__(
        self,
        recipe: TrainingRecipe,
        config: DetectorConfig,
        *,
        images: Tensor,
        bits: Tensor,
    ) -> None:
        """images: uint8 [N, 3, size, size]; bits: [N, bits], 0, 1 or UNKNOWN."""
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.detector = Detector(config)
        self._recipe = recipe
        self._images = images
        self._bits = bits.float()
        # The learning rate decays to zero, so averaged weights add nothing.
        self.modules["detector"] = self.detector
        self._optimizer = self.optimizers["detector"] = adamw(
            self.detector, learning_rate=recipe.learning_rate, weight_decay=recipe.weight_decay
        )

    def step(self, index: int, generator: Generator) -> dict[str, float]:
        recipe = self._recipe
        loop.anneal(self._optimizer, index, recipe)
        chosen = torch.randint(len(self._images), (recipe.batch,), generator=generator)
        images, bits = as_float(self._images[chosen]), self._bits[chosen]
        images, bits = self._augmented(images, bits, generator)
        self.detector.train()
        with networks.autocast(is_bf16=recipe.is_bf16):
            logits = self.detector(images).float()
        known = bits != UNKNOWN
        loss = F.binary_cross_entropy_with_logits(logits[known], bits[known])
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
        right = (logits.detach() > 0) == (bits > 0.5)
        return {"loss": loss.item(), "bits_right": right[known].float().mean().item()}

    def _augmented(
        self, images: Tensor, bits: Tensor, generator: Generator
    ) -> tuple[Tensor, Tensor]:
        """Return an augmented batch: images, float [N, 3, size, size], −1 to 1, and their bits, [N, bits]."""
        raise NotImplementedError


class DetectorTask(BitsTask):
    """The starter's detector under training."""

    def __init__(
        self, recipe: DetectorRecipe, config: DetectorConfig, *, images: Tensor, bits: Tensor
    ) -> None:
        super().__init__(recipe, config, images=images, bits=bits)
        self._augmentation = recipe.augmentation

    def _augmented(
        self, images: Tensor, bits: Tensor, generator: Generator
    ) -> tuple[Tensor, Tensor]:
        return self._augmentation(images, generator), bits


def train(
    recipe: DetectorRecipe,
    *,
    images: Tensor,
    bits: Tensor,
    validation_images: Tensor,
    validation_bits: Tensor,
    config: DetectorConfig,
    folder: Path,
    progress_bar: bool,
) -> Detector:
    """Train (resuming from the folder's checkpoint), calibrate, save in folder/detector, and return the detector.

    images: uint8 [N, 3, size, size]; bits: [N, bits], 0 or 1.
    """
    task = DetectorTask(recipe, config, images=images, bits=bits)
    loop.train(task, recipe, folder=folder, title="detector", progress_bar=progress_bar)
    calibrate(task.detector, images=validation_images, bits=validation_bits)
    network.save(task.detector, Path(folder) / "detector")
    return network.load(Path(folder) / "detector")


def calibrate(detector: Detector, *, images: Tensor, bits: Tensor) -> None:
    """Set temperatures, then thresholds, from images that were not trained on."""
    detector.temperatures.copy_(calibration.fit_temperatures(detector.logits(images), bits))
    detector.thresholds.copy_(calibration.fit_thresholds(detector.probabilities(images), bits))
