"""Makes a student out of its teacher, and asks it. Knows no loss and no loop. What is kept is decided in `students`."""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

from distillation.students import channels, cuts, pruning, unets, weights, widths
from distillation.students.errors import StudentRefused
from distillation.students.posterior import Posterior
from distillation.trainers.teacher import Teacher
from distillation.training.errors import RecipeRefused


@dataclass(frozen=True)
class StudentRecipe:
    """cut: of `cuts.CUTS`, or None to keep all blocks; width: the share of channels that stays, as a fraction."""

    cut: str | None = "tiny"
    width: str = "1"

    def __post_init__(self) -> None:
        if self.cut is not None and self.cut not in cuts.CUTS:
            raise ValueError(
                f"cut must be one of {', '.join(cuts.CUTS)} or null, not {self.cut!r}."
            )
        try:
            share = Fraction(self.width)
        except (ValueError, ZeroDivisionError):
            raise ValueError(f"width must be a fraction such as 5/8, not {self.width!r}.") from None
        if not 0 < share <= 1:
            raise ValueError(f"width must be above 0 and at most 1, not {self.width}.")

    @property
    def share(self) -> Fraction:
        return Fraction(self.width)


def make(
    teacher: Teacher, recipe: StudentRecipe, *, posterior: Posterior | None = None
) -> UNet2DConditionModel:
    """The student with its teacher's weights, fp32, trainable. Raises RecipeRefused.

    posterior: of the teacher's weights; decides which channels stay where the width is less than 1. Without one all
    weights count as equally well known, and the largest channels stay.
    """
    tensors = dict(teacher.unet.state_dict())
    config: Mapping[str, object] = teacher.unet.config
    try:
        config = unets.complete(config)
        if recipe.cut is not None:
            cut = cuts.cut_named(recipe.cut)
            tensors = weights.copy(tensors, teacher_config=config, cut=cut).tensors
            if posterior is not None:
                posterior = pruning.prior_of_cut(posterior, teacher_config=config, cut=cut)
            config = cuts.student_config(config, cut)
        if recipe.share < 1:
            known = posterior or Posterior(
                tensors, {name: torch.ones_like(value) for name, value in tensors.items()}
            )
            scores = pruning.channel_scores(known, channels.layout(config))
            # Where no choice of channels keeps the groups of the norms whole, training must make up for it.
            is_mixed = recipe.share not in widths.exact_shares(config)
            plan = widths.plan(config, recipe.share, scores=scores, may_mix_norms=is_mixed)
            tensors, config = widths.narrow(tensors, plan), plan.student_config
    except StudentRefused as error:
        raise RecipeRefused(
            f"student (cut {recipe.cut}, width {recipe.width}) does not fit {teacher.manifest.name}: {error}"
        ) from error
    student = UNet2DConditionModel.from_config(dict(config))
    student.load_state_dict(tensors)
    student.set_attn_processor(teacher.attention_processor())
    return student.to(teacher.device)


def feature_pairs(teacher: Teacher, recipe: StudentRecipe) -> tuple[tuple[str, str], ...]:
    """(the teacher's module, the student's) whose outputs have one shape. None of a narrower student."""
    if recipe.cut is None or recipe.share < 1:
        return ()
    return cuts.feature_pairs(teacher.unet.config, cuts.cut_named(recipe.cut))


def predict(
    student: UNet2DConditionModel, latents: Tensor, timesteps: Tensor, prompt_embeds: Tensor
) -> Tensor:
    """fp32 [B, C, h, w], of the prediction type that it was trained for; inside `teacher.autocast()`."""
    output: Tensor = student(
        latents, timesteps, encoder_hidden_states=prompt_embeds, return_dict=False
    )[0]
    return output.float()
