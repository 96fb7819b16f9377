"""Method `ensemble`: regression onto the mean of several teachers, weighted less where they disagree.

One teacher gives several members: itself at several guidance scales. They share all weights, so their disagreement
shows where guidance matters, not what a separately trained network would predict; further releases do that.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Generator, Tensor, nn

from distillation.losses.ensembles import SUM_TOLERANCE, ensemble_regression
from distillation.losses.noise_regression import guided
from distillation.trainers import teacher as teachers
from distillation.trainers.objectives import passes
from distillation.trainers.objectives.batches import Batch
from distillation.trainers.objectives.protocol import Sources
from distillation.trainers.teacher import Teacher
from distillation.training import checks
from distillation.training.errors import RecipeRefused

SPREAD = (0.75, 1.0, 1.25)  # of w − 1, where no scales are given


@dataclass(frozen=True)
class EnsembleRecipe:
    """E[‖ε_S − ε̄‖² · τ² ÷ (τ² + v)], v the members' disagreement about the sample.

    guidance_scales: of the teacher, a member each; none is 1 + (w − 1) · SPREAD around its own w. teachers: folders of
    more releases, a member each at its own scale. weights: of the members in that order, of sum 1; none is equal ones.
    variance: τ², of the student's own error, in squared units of the prediction.
    """

    method: str = "ensemble"
    guidance_scales: tuple[float, ...] = ()
    teachers: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    variance: float = 0.02

    def __post_init__(self) -> None:
        checks.one_of(self, "method", ("ensemble",))
        checks.positive(self, "variance")
        if min(self.guidance_scales, default=1) <= 0:
            raise ValueError(f"guidance_scales must be above 0, not {self.guidance_scales}.")
        if len(self.guidance_scales) == 1 and not self.teachers:
            raise ValueError(
                f"guidance_scales is {self.guidance_scales}, and teachers names none: an ensemble has two members."
            )
        if self.weights:
            if min(self.weights) < 0 or abs(sum(self.weights) - 1) > SUM_TOLERANCE:
                raise ValueError(
                    f"weights must not be negative and must sum to 1, not {self.weights}."
                )
            scales = self.guidance_scales or SPREAD
            if len(self.weights) != len(scales) + len(self.teachers):
                raise ValueError(
                    f"weights has {len(self.weights)} values for {len(scales)} guidance_scales and "
                    f"{len(self.teachers)} teachers."
                )

    def make(self, sources: Sources, student: UNet2DConditionModel) -> "Ensemble":
        return Ensemble(self, sources, student)


class Ensemble:
    """See EnsembleRecipe."""

    def __init__(
        self, recipe: EnsembleRecipe, sources: Sources, student: UNet2DConditionModel
    ) -> None:
        own = sources.teacher
        self._recipe = recipe
        self._teacher = own
        self._student = student
        given = recipe.guidance_scales
        if not given:
            if own.guidance_scale == 1:
                raise RecipeRefused(
                    f"guidance_scales must be given: {own.manifest.name} is unguided, so there is nothing to vary."
                )
            given = tuple(1 + (own.guidance_scale - 1) * factor for factor in SPREAD)
        self._scales = tuple(
            passes.scale_of(own, scale, field="guidance_scales") for scale in given
        )
        self._others = tuple(_like(own, folder) for folder in recipe.teachers)
        members = len(self._scales) + len(self._others)
        self._weights = torch.tensor(recipe.weights or (1 / members,) * members)
        self.modules: dict[str, nn.Module] = {}

    def losses(self, batch: Batch, generator: Generator) -> dict[str, Tensor]:
        prediction = passes.of_student(self._student, self._teacher, batch)
        loss = ensemble_regression(
            prediction,
            self.members(batch),
            weights=self._weights,
            variance=self._recipe.variance,
        )
        return {"ensemble": self._recipe.variance * loss}

    def members(self, batch: Batch) -> Sequence[Tensor]:
        """Return the members' predictions, each fp32 [B, C, h, w]. All scales of a teacher cost its two passes."""
        text = passes.with_text(self._teacher, batch)
        without = text
        if set(self._scales) != {1.0}:
            without = passes.without_text(self._teacher, batch)
        found = [guided(without, text, guidance_scale=scale) for scale in self._scales]
        for other in self._others:
            found.append(passes.guided_by(other, batch, guidance_scale=other.guidance_scale))
        return found


def _like(own: Teacher, folder: str) -> Teacher:
    """Load a release whose predictions can be averaged with the teacher's. Raises RecipeRefused, TeacherRefused."""
    other = teachers.load(Path(folder), device=str(own.device))
    for what, theirs, ours in (
        ("prediction type", other.schedule.prediction_type, own.schedule.prediction_type),
        ("latents", other.latent_shape, own.latent_shape),
        ("encoder", other.manifest.encoder_fingerprint, own.manifest.encoder_fingerprint),
        ("number of timesteps", len(other.schedule), len(own.schedule)),
    ):
        if theirs != ours:
            raise RecipeRefused(
                f"teachers: {other.manifest.name} has another {what} ({theirs}) than {own.manifest.name} ({ours})."
            )
    if not torch.allclose(other.schedule.alphas, own.schedule.alphas, atol=1e-6):
        raise RecipeRefused(
            f"teachers: {other.manifest.name} has another noise schedule than {own.manifest.name}."
        )
    return other
