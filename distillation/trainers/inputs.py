"""Inputs of the stages that train a network: teacher, pairs, catalogue, and the networks of the stages before."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

from distillation.trainers.catalogue import Catalogue
from distillation.trainers.labels import Labels
from distillation.trainers.pairs import Pairs
from distillation.trainers.real_images import RealImages
from distillation.trainers.sample_sheets import Samples
from distillation.trainers.teacher import Teacher
from distillation.training import loop
from distillation.training.task import Progress, Task


@dataclass(frozen=True, kw_only=True)
class StageInputs:
    """pairs: of the training split, only accepted ones except for the stage `decoder`. folder: the stage's own, with
    its checkpoint. samples: for the sample sheet, which is drawn repeatedly to show the progress; None = no sheet.
    real_images: accepted ones, real samples of the stage's discriminator in addition to the teacher's: latents for the
    stage `matching`, pictures for `decoder` and `joint`.
    """

    teacher: Teacher
    pairs: Pairs
    catalogue: Catalogue
    folder: Path
    progress_bar: bool = True
    samples: Samples | None = None
    real_images: RealImages | None = None


@dataclass(frozen=True, kw_only=True)
class TuningInputs(StageInputs):
    """student, decoder: fp32, from earlier stages. timesteps: of the student's passes, descending.

    structure: the student of the structure stage, if a fake score starts from it. labels: of the stage joint; None = no
    such term.
    """

    student: UNet2DConditionModel
    decoder: AutoencoderTiny
    timesteps: tuple[int, ...]
    structure: UNet2DConditionModel | None = None
    labels: Labels | None = None


def run(
    task: Task,
    recipe: loop.Timed,
    inputs: StageInputs,
    *,
    title: str,
    pictures: Callable[[Samples], Tensor] | None = None,
) -> None:
    """Train the task in the stage's folder (`loop.run`). pictures: makes the student's part of the sample sheet."""
    samples = inputs.samples

    def draw(progress: Progress) -> None:
        if samples is not None and pictures is not None:
            samples.write(inputs.folder, pictures(samples), progress)

    loop.train(
        task,
        recipe,
        folder=inputs.folder,
        title=title,
        progress_bar=inputs.progress_bar,
        draw=draw if samples and pictures else None,
    )
