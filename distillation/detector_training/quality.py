"""Training of a classifier on labelled photographs and on spoilt copies of them, and calibration of its bits.

Unlike `classifier` it takes unknown labels, can begin with a detector of other bits, and learns `sharp` and `clean`
from pictures that it spoils itself, if these are its last bits.
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

# What a picture that is sharp and clean may have of everything: what small networks draw is a good deal softer than a
# photograph, files are a little blocky.
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
    """spoilt, worn: shares of a batch. Of the spoilt only `sharp` and `clean` are learned; of the worn, which are as
    bad as `wear` makes them, everything else; of the rest, which are `sound`, all. finished: share of the sound and of
    the spoilt alike that get the traces of a camera and a file, `finish`, last. Were they there before a picture is
    blurred, blurring would take them away, and what has no noise would pass for blurred.
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
    """The detector under training on sound, spoilt and worn pictures, for `distillation.training.loop`."""

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

    def _varied(self, images: Tensor, bits: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
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
    """Train (going on from the folder's checkpoint) and calibrate. Shapes as those of QualityTask.

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
    """Set temperatures, then thresholds, by pictures that were not trained on: as they are, sound, and spoilt."""
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
    """Give some of them the traces of a camera and a file. images: float [N, 3, H, W], −1 to 1."""
    chosen = (torch.rand(len(images), generator=generator) < recipe.finished).nonzero()[:, 0]
    if not len(chosen):
        return images
    return images.index_copy(0, chosen, recipe.finish(images[chosen], generator))


@torch.no_grad()
def take_over(detector: Detector, other: Detector) -> None:
    """Begin with the weights of a detector of the same build; of its head, with the bits of the same names."""
    if (other.config.widths, other.config.depths) != (
        detector.config.widths,
        detector.config.depths,
    ):
        raise ValueError(
            f"A detector of widths {other.config.widths} and depths {other.config.depths} is no beginning for one of "
            f"{detector.config.widths} and {detector.config.depths}."
        )
    rest = {k: v for k, v in other.state_dict().items() if k.startswith(("stem.", "blocks."))}
    detector.load_state_dict(rest, strict=False)
    for number, name in enumerate(detector.config.bits):
        if name in other.config.bits:
            of = other.config.bits.index(name)
            detector.head.weight[number] = other.head.weight[of]
            detector.head.bias[number] = other.head.bias[of]
