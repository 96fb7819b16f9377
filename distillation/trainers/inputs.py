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
    """pairs: of the training split. folder: the stage's own, with its checkpoint. samples: whose sheet is drawn now and
    then to show people the progress; None draws none.
    """

    teacher: Teacher
    pairs: Pairs
    catalogue: Catalogue
    folder: Path
    progress_bar: bool = True
    samples: Samples | None = None


@dataclass(frozen=True, kw_only=True)
class TuningInputs(StageInputs):
    """student, decoder: fp32, as the stage before left them. timesteps: those the student is served in, descending.

    structure: the student of the structure stage, where a fake score starts from it. real_images: accepted ones, which
    the discriminator takes for real in addition to the teacher's. labels: of the stage joint; None leaves them out.
    """

    student: UNet2DConditionModel
    decoder: AutoencoderTiny
    timesteps: tuple[int, ...]
    structure: UNet2DConditionModel | None = None
    real_images: RealImages | None = None
    labels: Labels | None = None


def run(
    task: Task,
    recipe: loop.Timed,
    inputs: StageInputs,
    *,
    title: str,
    pictures: Callable[[Samples], Tensor] | None = None,
) -> None:
    """Train the task in the stage's folder (`loop.run`). pictures: draws the student's part of the sample sheet."""
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
