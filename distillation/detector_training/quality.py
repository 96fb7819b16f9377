"""Training of a classifier on labelled photographs and on spoilt copies of them, and calibration of its bits.

Unlike `classifier` it accepts unknown labels, can start from a detector with other bits, and trains `sharp` and `clean`
on pictures that it spoils itself, if these are its last bits.
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Generator, Tensor

from distillation.detector import calibration
from distillation.detector.labels import UNKNOWN
from distillation.detector.network import Detector, DetectorConfig, as_float
from distillation.detector_training import degradations
from distillation.detector_training.augmentation import Augmentation
from distillation.detector_training.classifier import BitsTask, TrainingRecipe
from distillation.detector_training.degradations import BITS, Spoiling
from distillation.training import loop
from generation.engine.latents import as_uint8

# Degradations that a sharp and clean picture may have: images of small networks are much softer than photographs, and
# files are slightly blocky.
SOUND = Augmentation(blurred=0.6, smallest=0.4, noise=0.0, blocked=0.0)
FINISH = Augmentation(
    is_mirrored=False,
    moved=0.0,
    brightness=0.0,
    contrast=0.0,
    blurred=0.0,
    noise=0.05,
    blocked=0.4,
    coarseness=1.2,
)


@dataclass(frozen=True)
class QualityRecipe(TrainingRecipe):
    """spoilt, worn: shares of a batch. Spoilt pictures train only `sharp` and `clean`; worn ones, augmented by `wear`,
    all other bits; the rest, augmented by `sound`, all bits. finished: share of all pictures that get `finish` last:
    noise of a camera, blocks of a file. Before the blurring, `finish` would be blurred away, and the network would
    take pictures without noise for blurred ones.
    """

    steps: int = 900
    spoilt: float = 0.35
    worn: float = 0.15
    spoiling: Spoiling = field(default_factory=Spoiling)
    sound: Augmentation = SOUND
    finished: float = 0.5
    finish: Augmentation = FINISH
    wear: Augmentation = field(default_factory=Augmentation)


class QualityTask(BitsTask):
    """Training of the detector on sound, spoilt and worn pictures, for `distillation.training.loop`."""

    def __init__(
        self,
        recipe: QualityRecipe,
        config: DetectorConfig,
        *,
        images: Tensor,
        bits: Tensor,
        begins_with: Detector | None = None,
    ) -> None:
        """images: uint8 [N, 3, size, size]; bits: float [N, bits], 0, 1 or UNKNOWN, those of BITS last."""
        super().__init__(recipe, config, images=images, bits=bits)
        self._mix = recipe
        if begins_with is not None:
            take_over(self.detector, begins_with)

    def _augmented(
        self, images: Tensor, bits: Tensor, generator: Generator
    ) -> tuple[Tensor, Tensor]:
        recipe, count = self._mix, len(images)
        spoilt, worn = round(recipe.spoilt * count), round(recipe.worn * count)
        parts = images.split([spoilt, worn, count - spoilt - worn])
        bits = bits.clone()
        made = [recipe.sound(parts[0], generator), recipe.wear(parts[1], generator)]
        made.append(recipe.sound(parts[2], generator))
        if spoilt:
            quality = slice(-len(BITS), None)
            made[0], found = recipe.spoiling(made[0], generator)
            bits[:spoilt] = UNKNOWN
            bits[:spoilt, quality] = found
            bits[spoilt : spoilt + worn, quality] = UNKNOWN
        return finished(torch.cat(made), recipe, generator), bits


def train(
    recipe: QualityRecipe,
    *,
    images: Tensor,
    bits: Tensor,
    validation_images: Tensor,
    validation_bits: Tensor,
    config: DetectorConfig,
    begins_with: Detector | None,
    false_accepts: float,
    folder: Path,
    title: str,
    progress_bar: bool,
) -> Detector:
    """Train (resuming from the folder's checkpoint), calibrate, and return the detector. Shapes as in QualityTask.

    false_accepts: share of the pictures without a bit that may be accepted.
    """
    task = QualityTask(recipe, config, images=images, bits=bits, begins_with=begins_with)
    loop.train(task, recipe, folder=folder, title=title, progress_bar=progress_bar)
    calibrate(
        task.detector,
        recipe,
        images=validation_images,
        bits=validation_bits,
        false_accepts=false_accepts,
    )
    return task.detector.requires_grad_(False).eval()


def calibrate(
    detector: Detector,
    recipe: QualityRecipe,
    *,
    images: Tensor,
    bits: Tensor,
    false_accepts: float,
) -> None:
    """Set temperatures, then thresholds, from pictures that were not trained on: unchanged, sound, and spoilt."""
    generator = torch.Generator().manual_seed(recipe.seed)
    floats = as_float(images)
    sound = finished(recipe.sound(floats, generator), recipe, generator)
    pictures, truths = [images, as_uint8(sound)], [bits, bits]
    for way in degradations.WAYS if recipe.spoilt else ():
        made, quality = recipe.spoiling.spoil(way, floats, generator)
        truth = torch.full_like(bits, UNKNOWN, dtype=torch.float32)
        truth[:, -len(BITS) :] = quality
        pictures.append(as_uint8(finished(made, recipe, generator)))
        truths.append(truth)
    logits, truth = torch.cat([detector.logits(part) for part in pictures]), torch.cat(truths)
    calibration.calibrate(
        detector,
        logits,
        truth > 0.5,
        known=truth != UNKNOWN,
        names=detector.config.bits,
        false_accepts=false_accepts,
    )


def finished(images: Tensor, recipe: QualityRecipe, generator: Generator) -> Tensor:
    """Return the images, a random share of them augmented by `recipe.finish`. images: float [N, 3, H, W], −1 to 1."""
    chosen = (torch.rand(len(images), generator=generator) < recipe.finished).nonzero()[:, 0]
    if not len(chosen):
        return images
    return images.index_copy(0, chosen, recipe.finish(images[chosen], generator))


@torch.no_grad()
def take_over(detector: Detector, other: Detector) -> None:
    """Copy the weights of a detector with the same architecture; of its head, the rows of bits with the same names."""
    if (other.config.widths, other.config.depths) != (
        detector.config.widths,
        detector.config.depths,
    ):
        raise ValueError(
            f"A detector of widths {other.config.widths} and depths {other.config.depths} cannot initialise one of "
            f"{detector.config.widths} and {detector.config.depths}."
        )
    rest = {k: v for k, v in other.state_dict().items() if k.startswith(("stem.", "blocks."))}
    detector.load_state_dict(rest, strict=False)
    for number, name in enumerate(detector.config.bits):
        if name in other.config.bits:
            of = other.config.bits.index(name)
            detector.head.weight[number] = other.head.weight[of]
            detector.head.bias[number] = other.head.bias[of]
