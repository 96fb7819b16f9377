"""Method `hinton`: soft targets of the teacher and hard ones of the data, averaged (arXiv 1503.02531).

A diffusion network has no classes. Its d outputs of a sample are treated as d logits, softened by a temperature; at a
high temperature this is regression on the outputs. For classes of the pictures see `labels` of the stage `joint`.
"""

from dataclasses import dataclass

from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Generator, Tensor

from distillation.losses.noise_regression import noise_regression
from distillation.losses.soft_targets import soft_loss, target_log_probabilities
from distillation.trainers.objectives.batches import Batch
from distillation.trainers.objectives.protocol import Sources, StudentObjective
from distillation.training import checks


@dataclass(frozen=True)
class HintonRecipe:
    """soft_weight · soft + (1 − soft_weight) · hard.

    soft: loss against the guided teacher's outputs; hard: loss against the hard targets of the noised samples.
    temperature: T, in the unit of the outputs, whose scale is about 1. guidance_scale: None = the teacher's own.
    """

    method: str = "hinton"
    soft_weight: float = 0.9
    temperature: float = 1.0
    guidance_scale: float | None = None

    def __post_init__(self) -> None:
        checks.one_of(self, "method", ("hinton",))
        checks.share(self, "soft_weight")
        checks.positive(self, "soft_weight", "temperature", "guidance_scale")

    def make(self, sources: Sources, student: UNet2DConditionModel) -> "Hinton":
        return Hinton(self, sources, student)


class Hinton(StudentObjective):
    """See HintonRecipe."""

    def __init__(
        self, recipe: HintonRecipe, sources: Sources, student: UNet2DConditionModel
    ) -> None:
        self._recipe = recipe
        super().__init__(sources, student, recipe.guidance_scale)

    def losses(self, batch: Batch, generator: Generator) -> dict[str, Tensor]:
        prediction = self._teacher.passed(self._student, *batch.inputs)
        hard = noise_regression(prediction[: len(batch.hard)], batch.hard)
        target = self._teacher.predict(*batch.inputs, guidance_scale=self._scale)
        soft = softened_regression(prediction, target, temperature=self._recipe.temperature)
        share = self._recipe.soft_weight
        return {"hard": (1 - share) * hard, "soft": share * soft}


def softened_regression(prediction: Tensor, target: Tensor, *, temperature: float) -> Tensor:
    """Return 2 T² · KL of the softmax over the d outputs of a sample + (difference of their means)²; both are [B, ...].

    The softmax is invariant to a constant added to all outputs, so the means are regressed as well. The factor 2 is
    there because T² · KL → ‖z − v‖² ÷ 2d of centred logits: the sum then tends to the mean squared difference. A low
    temperature gives the teacher's large outputs more weight.
    """
    logits, wanted = prediction.flatten(1), target.flatten(1)
    soft = soft_loss(
        logits,
        target_log_probabilities(wanted, temperature=temperature),
        temperature=temperature,
    )
    means = noise_regression(logits.mean(1, keepdim=True), wanted.mean(1, keepdim=True))
    return 2 * soft + means
