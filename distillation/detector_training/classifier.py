"""Training of the starter's detector on photographs with known bits, and its calibration."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from distillation.detector import calibration, network
from distillation.detector.network import Detector, DetectorConfig, as_float
from distillation.detector_training.augmentation import Augmentation
from distillation.training import loop
from distillation.training.ema import Ema
from distillation.training.optimizers import adamw


@dataclass(frozen=True)
class DetectorRecipe:
    """Adam with decoupled decay, a cosine after a warm-up; every batch is drawn with replacement."""

    steps: int = 1100
    batch: int = 64
    learning_rate: float = 3e-3  # peak
    warmup: int = 60
    weight_decay: float = 0.02
    is_bf16: bool = True  # forward passes, twice as fast; weights and updates stay fp32
    augmentation: Augmentation = field(default_factory=Augmentation)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 2 or not 0 <= self.warmup <= self.steps:
            raise ValueError(
                "A run needs a step, batches of two, and a warm-up that ends within it."
            )
        if self.learning_rate <= 0 or self.weight_decay < 0:
            raise ValueError("The learning rate must be above 0, the weight decay not below.")


class DetectorTask:
    """The detector under training, for `distillation.training.loop`."""

    def __init__(
        self, recipe: DetectorRecipe, config: DetectorConfig, *, images: Tensor, bits: Tensor
    ) -> None:
        """images: uint8 [N, 3, size, size]; bits: [N, bits]."""
        check(config, images=images, bits=bits)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.detector = Detector(config)
        self._recipe = recipe
        self._images = images
        self._bits = bits.float()
        self._optimizer = adamw(
            self.detector, learning_rate=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        self.modules: dict[str, nn.Module] = {"detector": self.detector}
        self.optimizers: dict[str, torch.optim.Optimizer] = {"detector": self._optimizer}
        # The rate falls to zero: an average of the weights adds nothing.
        self.emas: dict[str, Ema] = {}

    def step(self, index: int, generator: Generator) -> dict[str, float]:
        recipe = self._recipe
        loop.anneal(self._optimizer, index, recipe)
        chosen = torch.randint(len(self._images), (recipe.batch,), generator=generator)
        images = recipe.augmentation(as_float(self._images[chosen]), generator)
        bits = self._bits[chosen]
        self.detector.train()
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.is_bf16):
            logits = self.detector(images).float()
        loss = F.binary_cross_entropy_with_logits(logits, bits)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
        right = ((logits.detach() > 0) == (bits > 0.5)).float().mean()
        return {"loss": loss.item(), "bits_right": right.item()}


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
    """Train (going on from the folder's checkpoint), calibrate, and save in folder/detector.

    images: uint8 [N, 3, size, size]; bits: [N, bits], 0 or 1.
    """
    check(config, images=validation_images, bits=validation_bits)
    task = DetectorTask(recipe, config, images=images, bits=bits)
    loop.run(
        task,
        folder,
        steps=recipe.steps,
        seed=recipe.seed,
        title="detector",
        progress_bar=progress_bar,
    )
    calibrate(task.detector, images=validation_images, bits=validation_bits)
    network.save(task.detector, Path(folder) / "detector")
    return network.load(Path(folder) / "detector")


def calibrate(detector: Detector, *, images: Tensor, bits: Tensor) -> None:
    """Set temperatures, then thresholds, by images that were not trained on."""
    detector.temperatures.copy_(calibration.fit_temperatures(detector.logits(images), bits))
    detector.thresholds.copy_(calibration.fit_thresholds(detector.probabilities(images), bits))


def check(config: DetectorConfig, *, images: Tensor, bits: Tensor) -> None:
    """Raise ValueError for images or bits that the network has no place for."""
    size = config.image_size
    if images.dtype != torch.uint8 or images.shape[1:] != (3, size, size) or not len(images):
        raise ValueError(
            f"Give uint8 images [N, 3, {size}, {size}], not {images.dtype} {list(images.shape)}."
        )
    if bits.shape != (len(images), len(config.bits)):
        raise ValueError(
            f"Give bits [{len(images)}, {len(config.bits)}], not {list(bits.shape)}: one row an image."
        )
