"""Method `guidance`: the student's pass is regressed on the guided teacher's two, its features on the teacher's.

Meng et al., arXiv 2210.03142, for one guidance scale; features are normalised as in LAPTOP-Diff (arXiv 2404.11098).
"""

from dataclasses import dataclass

from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Generator, Tensor

from distillation.losses.features import normalised_matching
from distillation.losses.noise_regression import noise_regression
from distillation.trainers.objectives.batches import Batch
from distillation.trainers.objectives.protocol import Sources, StudentObjective
from distillation.trainers.student import StudentRecipe, feature_pairs
from distillation.trainers.teacher import Teacher
from distillation.training import checks
from distillation.training.errors import RecipeRefused


@dataclass(frozen=True)
class GuidanceRecipe:
    """‖ε_w − ε_S‖² + hard_weight · ‖hard − ε_S‖² + feature_weight · Σ features.

    guidance_scale: w, None = the teacher's own. hard_weight: λ_t, weight of the hard targets, 0 to 0.1: they pull
    towards the unguided prediction. feature_weight: of all layers together; None = 1 if the student has layers of the
    teacher's shapes, else 0, as for a narrower student.
    """

    method: str = "guidance"
    guidance_scale: float | None = None
    hard_weight: float = 0.0
    feature_weight: float | None = None

    def __post_init__(self) -> None:
        checks.one_of(self, "method", (type(self).method,))
        checks.positive(self, "guidance_scale")
        checks.share(self, "hard_weight")
        checks.not_negative(self, "feature_weight")

    def paired(
        self, teacher: Teacher, student_recipe: StudentRecipe
    ) -> tuple[tuple[str, str], ...]:
        """Return the pairs of modules whose outputs the loss compares. Raises RecipeRefused if it has none."""
        pairs = feature_pairs(teacher, student_recipe)
        if self.feature_weight and not pairs:
            raise RecipeRefused(
                f"feature_weight is {self.feature_weight}, but a student of cut {student_recipe.cut} and width "
                f"{student_recipe.width} has no layers that are paired with the teacher's: give 0, or the method mmd."
            )
        return pairs

    def make(self, sources: Sources, student: UNet2DConditionModel) -> "Guidance":
        return Guidance(self, sources, student)


@dataclass(frozen=True)
class ScratchRecipe(GuidanceRecipe):
    """GuidanceRecipe for a student with random initial weights; the other methods start from the teacher's weights."""

    method: str = "scratch"
    feature_weight: float | None = 0.0


class Guidance(StudentObjective):
    """See GuidanceRecipe."""

    def __init__(
        self, recipe: GuidanceRecipe, sources: Sources, student: UNet2DConditionModel
    ) -> None:
        self._recipe = recipe
        super().__init__(sources, student, recipe.guidance_scale)
        pairs = recipe.paired(sources.teacher, sources.student_recipe)
        given = recipe.feature_weight
        self._feature_weight = (1.0 if pairs else 0.0) if given is None else given
        if self._feature_weight:
            self.teacher_layers = tuple(name for name, _ in pairs)
            self.student_layers = tuple(name for _, name in pairs)

    def losses(self, batch: Batch, generator: Generator) -> dict[str, Tensor]:
        passed = self._passed(batch)
        losses = {"guided": passed.guided}
        if self._recipe.hard_weight:
            hard = noise_regression(passed.prediction[: len(batch.hard)], batch.hard)
            losses["hard"] = self._recipe.hard_weight * hard
        if self._feature_weight:
            features = normalised_matching(passed.ours, passed.theirs)
            losses["features"] = self._feature_weight * features
        return losses
