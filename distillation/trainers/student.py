"""Student network, derived from its teacher by a recipe."""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

from distillation.students import channels, cuts, pruning, weights, widths
from distillation.students.cuts import Cut
from distillation.students.errors import StudentRefused
from distillation.students.posterior import Posterior
from distillation.students.unets import UNetShape
from distillation.trainers.teacher import Teacher
from distillation.training.errors import RecipeRefused


@dataclass(frozen=True)
class StudentRecipe:
    """cut: one of `cuts.CUTS`, or None to keep all blocks; width: share of channels that are kept, as a fraction.

    The block that a `…-least` removes and the channels that are kept are chosen by the teacher's posterior with the
    method bayes, and by the magnitude of the weights with other methods.
    """

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


@dataclass(frozen=True)
class Reduced:
    """A student's shape and initial weights. prior: the teacher's posterior of these weights, None without one."""

    shape: UNetShape
    tensors: dict[str, Tensor]
    prior: Posterior | None


def reduce(teacher: Teacher, recipe: StudentRecipe, *, posterior: Posterior | None) -> Reduced:
    """Return the teacher without the blocks and channels that the recipe removes. Raises StudentRefused.

    posterior: of the teacher's weights; determines which channels are kept if the width is less than 1, and which block
    a `…-least` removes. Without one all weights have the same variance, so the largest are kept.
    """
    shape = UNetShape(teacher.unet.config)
    tensors = dict(teacher.unet.state_dict())
    if recipe.cut is not None:
        cut = _cut(recipe.cut, teacher, posterior)
        tensors = weights.copy(tensors, shape, cut=cut)
        posterior = posterior and pruning.prior_of_cut(posterior, shape, cut=cut)
        shape = cuts.student_shape(shape, cut)
    if recipe.share < 1:
        scores = pruning.channel_scores(
            posterior or _unit_variances(tensors), channels.layout(shape)
        )
        # If no choice of channels keeps the groups of the norms whole, training must compensate for that.
        is_mixed = recipe.share not in widths.exact_shares(shape)
        plan = widths.plan(shape, recipe.share, scores=scores, may_mix_norms=is_mixed)
        tensors, shape = widths.narrow(tensors, plan), plan.student
        posterior = posterior and pruning.prior_of_widths(posterior, plan)
    return Reduced(shape, tensors, posterior)


def _cut(name: str, teacher: Teacher, posterior: Posterior | None = None) -> Cut:
    """Return the cut with this name; for a `…-least`, with the additional block that the weights choose."""
    cut = cuts.cut_named(name)
    if not cut.loses_least:
        return cut
    known = posterior or _unit_variances(teacher.unet.state_dict())
    return pruning.without_least(cut, UNetShape(teacher.unet.config), known)


def _unit_variances(tensors: Mapping[str, Tensor]) -> Posterior:
    return Posterior(
        dict(tensors), {name: torch.ones_like(value) for name, value in tensors.items()}
    )


def make(
    teacher: Teacher,
    recipe: StudentRecipe,
    *,
    posterior: Posterior | None = None,
    random_seed: int | None = None,
) -> UNet2DConditionModel:
    """Return the student with its teacher's weights (`reduce`), fp32, trainable. Raises RecipeRefused.

    random_seed: of random weights instead; None = the teacher's.
    """
    try:
        reduced = reduce(teacher, recipe, posterior=posterior)
    except StudentRefused as error:
        raise RecipeRefused(
            f"student (cut {recipe.cut}, width {recipe.width}) does not fit {teacher.manifest.name}: {error}"
        ) from error
    # The teacher's own sample_size is that of its training, which need not be one of the release's sizes.
    config = {**reduced.shape.config, "sample_size": teacher.latent_shape[1]}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(random_seed or 0)
        student = UNet2DConditionModel.from_config(config)
    if random_seed is None:
        student.load_state_dict(reduced.tensors)
    student.set_attn_processor(teacher.attention_processor())
    return student.to(teacher.device)


def feature_pairs(teacher: Teacher, recipe: StudentRecipe) -> tuple[tuple[str, str], ...]:
    """Return (teacher's module, student's module) whose outputs have one shape; none for a narrower student."""
    if recipe.cut is None or recipe.share < 1:
        return ()
    return cuts.feature_pairs(UNetShape(teacher.unet.config), _cut(recipe.cut, teacher))
