"""Base of the trainings of few-step students: passes, examples, averaged weights and sample pictures."""

from dataclasses import dataclass

from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from distillation.trainers.inputs import TuningInputs
from distillation.trainers.pairs import Pairs
from distillation.trainers.rollout import Examples, Rollout
from distillation.trainers.sample_sheets import Samples
from distillation.training import checks
from distillation.training.task import Trained, TrainingRecipe


@dataclass(frozen=True)
class WatchedRecipe(TrainingRecipe):
    """Recipe with a comparison of student and teacher on `watched` pairs in every `watch_every`-th step."""

    watch_every: int = 50
    watched: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.at_least_1(self, "steps", "watch_every", "watched")


class FewStepTask(Trained):
    """Base of the tasks; a subclass adds its networks and defines `step`."""

    def __init__(self, inputs: TuningInputs, *, pairs: Pairs) -> None:
        """Raises RecipeRefused if the pairs are of another catalogue."""
        super().__init__()
        self._teacher = inputs.teacher
        self._decoder = inputs.decoder
        self._timesteps = inputs.timesteps
        self._rollout = Rollout(inputs.teacher, self._timesteps)
        self._examples = Examples(inputs.teacher, pairs=pairs, catalogue=inputs.catalogue)
        self.student = inputs.student.to(inputs.teacher.device).train().requires_grad_(True)

    @property
    def averaged(self) -> UNet2DConditionModel:
        """Return the student to save: with averaged weights, frozen."""
        return self.emas["student"].module

    @property
    def decoder_network(self) -> nn.Module:
        """Return the network that decodes the student's latents."""
        return self._decoder.decoder

    def pictures(self, samples: Samples) -> Tensor:
        """Return the averaged student's pictures at this step, [B, 3, H, W] in [−1, 1]."""
        return samples.drawn(self.decoder_network, samples.walked(self.averaged, self._timesteps))

    def _watch(self, index: int, recipe: WatchedRecipe) -> dict[str, float]:
        """Return `Rollout.watch` of the averaged student in every `watch_every`-th step and the last; else empty."""
        if (index + 1) % recipe.watch_every and index + 1 < recipe.steps:
            return {}
        return self._rollout.watch(self.averaged, self._examples, count=recipe.watched)
