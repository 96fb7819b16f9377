"""Method `ensemble`: regression on the mean of several teachers, with less weight where they disagree.

The members are different networks: the teacher, and additional releases, such as an earlier checkpoint of its training
or one trained with another seed. One teacher at several guidance scales would not be an ensemble: guidance is linear in
its scale, so their mean is the guided teacher itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Generator, Tensor, nn

from distillation.losses.ensembles import SUM_TOLERANCE, ensemble_regression
from distillation.trainers import teacher as teachers
from distillation.trainers.objectives.batches import Batch
from distillation.trainers.objectives.protocol import Sources
from distillation.trainers.teacher import Teacher
from distillation.training import checks
from distillation.training.errors import RecipeRefused


@dataclass(frozen=True)
class EnsembleRecipe:
    """E[‖ε_S − ε̄‖² · τ² ÷ (τ² + v)], v the members' disagreement about the sample.

    teachers: folders of the additional members' releases; each member has its own guidance scale. weights: of the
    teacher, then of these, with sum 1; empty = equal weights. variance: τ², of the student's own error, in squared
    units of the prediction; the smaller it is, the less weight have samples on which the members disagree.
    """

    method: str = "ensemble"
    teachers: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    variance: float = 0.02

    def __post_init__(self) -> None:
        checks.one_of(self, "method", ("ensemble",))
        checks.positive(self, "variance")
        if self.weights:
            if min(self.weights) < 0 or abs(sum(self.weights) - 1) > SUM_TOLERANCE:
                raise ValueError(
                    f"weights must not be negative and must sum to 1, not {self.weights}."
                )
            if len(self.weights) != 1 + len(self.teachers):
                raise ValueError(
                    f"weights has {len(self.weights)} values for the teacher and {len(self.teachers)} additional ones."
                )

    def check(self) -> None:
        """Raise RecipeRefused if there is no additional teacher."""
        if not self.teachers:
            raise RecipeRefused(
                "objective.teachers names no release, and one teacher is no ensemble. Give folders of releases with "
                "its latents and noise schedule, such as a checkpoint of its own training: "
                """--set 'structure.objective.teachers=["FOLDER"]'."""
            )

    def others(self, teacher: Teacher) -> tuple[Teacher, ...]:
        """Load the teachers of the ensemble besides this one. Raises RecipeRefused, TeacherRefused."""
        return tuple(_like(teacher, folder) for folder in self.teachers)

    def make(self, sources: Sources, student: UNet2DConditionModel) -> "Ensemble":
        return Ensemble(self, sources, student)


class Ensemble:
    """See EnsembleRecipe."""

    def __init__(
        self, recipe: EnsembleRecipe, sources: Sources, student: UNet2DConditionModel
    ) -> None:
        recipe.check()
        self._recipe = recipe
        self._teacher = sources.teacher
        self._student = student
        self._members = (self._teacher, *recipe.others(self._teacher))
        count = len(self._members)
        self._weights = torch.tensor(recipe.weights or (1 / count,) * count)
        self.modules: dict[str, nn.Module] = {}

    def losses(self, batch: Batch, generator: Generator) -> dict[str, Tensor]:
        prediction = self._teacher.passed(self._student, *batch.inputs)
        loss = ensemble_regression(
            prediction,
            self.members(batch),
            weights=self._weights,
            variance=self._recipe.variance,
        )
        return {"ensemble": self._recipe.variance * loss}

    def members(self, batch: Batch) -> Sequence[Tensor]:
        """Return the members' guided predictions, each fp32 [B, C, h, w]."""
        return [member.predict(*batch.inputs) for member in self._members]


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
