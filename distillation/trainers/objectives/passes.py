"""Passes of the teacher and the student."""

from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

from distillation.losses.noise_regression import guided
from distillation.trainers.objectives.batches import Batch
from distillation.trainers.teacher import Teacher
from distillation.training.errors import RecipeRefused


def of_student(student: UNet2DConditionModel, teacher: Teacher, batch: Batch) -> Tensor:
    """Return the student's prediction, fp32 [B, C, h, w], of the teacher's prediction type, with gradients."""
    return teacher.passed(student, batch.latents, batch.timesteps, batch.prompt_embeds)


def with_text(teacher: Teacher, batch: Batch) -> Tensor:
    """Return the unguided prediction, fp32 [B, C, h, w], of one pass."""
    return teacher.predict(batch.latents, batch.timesteps, batch.prompt_embeds, guidance_scale=1)


def without_text(teacher: Teacher, batch: Batch) -> Tensor:
    """Return the prediction for the empty text, fp32 [B, C, h, w]; only for a teacher that `scale_of` accepts."""
    if teacher.negative is None:
        raise RecipeRefused(f"{teacher.manifest.name} stores no embeddings of the empty text.")
    empty = teacher.negative.expand(len(batch.latents), -1, -1)
    return teacher.predict(batch.latents, batch.timesteps, empty, guidance_scale=1)


def guided_by(teacher: Teacher, batch: Batch, *, guidance_scale: float) -> Tensor:
    """Return the guided prediction, fp32 [B, C, h, w], of two passes, or of one where the scale is 1."""
    text = with_text(teacher, batch)
    if guidance_scale == 1:
        return text
    return guided(without_text(teacher, batch), text, guidance_scale=guidance_scale)


def scale_of(teacher: Teacher, given: float | None, *, field: str) -> float:
    """Return the guidance scale of a recipe's field, the teacher's own if None. Raises RecipeRefused."""
    scale = teacher.guidance_scale if given is None else given
    if scale != 1 and teacher.negative is None:
        raise RecipeRefused(
            f"{field} is {scale}, but {teacher.manifest.name} stores no embeddings of the empty text: give 1, or "
            "register the teacher with guidance."
        )
    return scale
