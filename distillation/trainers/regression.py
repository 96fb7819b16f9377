"""Stage `regression`: training of a student of one or few passes on the teacher's final latents for the same noise.

The warm start of distribution matching (DMD2's ODE pairs, arXiv 2405.14867): it never diverges and keeps the picture of
each seed, but alone gives slightly soft pictures. Pictures are never mirrored, because they belong to their noise.
"""

from dataclasses import dataclass, field

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Generator, Tensor

from distillation.trainers import perception
from distillation.trainers.few_step import FewStepTask, WatchedRecipe
from distillation.trainers.inputs import TuningInputs, run
from distillation.trainers.perception import PerceptionRecipe
from distillation.training import checks, loop, networks, processes


@dataclass(frozen=True)
class RegressionRecipe(WatchedRecipe):
    """pass_weights: weights of the losses of the student's passes, one for each of its timesteps.

    simulated: share of the inputs of later passes that come from the student's own earlier passes; the rest are points
    of the teacher's path. None for a student of one pass.
    """

    steps: int = 1500
    batch: int = 32
    learning_rate: float = 2e-4  # peak; falls by half a cosine to final_learning_rate
    final_learning_rate: float = 1e-6
    warmup: int = 50
    weight_decay: float = 0.0
    pass_weights: tuple[float, ...] = (1.0,)
    simulated: float | None = None
    perception: PerceptionRecipe = field(default_factory=PerceptionRecipe)

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.not_negative(self, "weight_decay")
        checks.at_most(self, "final_learning_rate", self.learning_rate, "learning_rate")
        checks.at_most(self, "warmup", self.steps, "steps")
        if not self.pass_weights or not all(weight > 0 for weight in self.pass_weights):
            raise ValueError(
                f"pass_weights must be above 0, one for each pass, not {self.pass_weights}."
            )
        if len(self.pass_weights) > self.batch:
            raise ValueError(
                f"batch ({self.batch}) must have a row for each of the {len(self.pass_weights)} passes."
            )
        if (self.simulated is None) != (len(self.pass_weights) == 1):
            raise ValueError(
                "simulated is for the passes after the first: give it, from 0 to 1, if pass_weights has several, "
                f"and leave it out if it has one; not {self.simulated} with pass_weights {self.pass_weights}."
            )
        checks.share(self, "simulated")


class RegressionTask(FewStepTask):
    """The student under training, for `distillation.training.loop`."""

    def __init__(self, recipe: RegressionRecipe, inputs: TuningInputs) -> None:
        super().__init__(inputs, pairs=inputs.pairs)
        self._recipe = recipe
        self._perception = perception.make(
            recipe.perception, teacher=inputs.teacher, decoder=inputs.decoder
        )
        self._batch = processes.share(recipe.batch)
        self.add_by(recipe, "student", self.student, weight_decay=recipe.weight_decay)

    def step(self, index: int, generator: Generator) -> dict[str, float]:
        recipe = self._recipe
        rate = loop.cosine(
            index,
            steps=recipe.steps,
            peak=recipe.learning_rate,
            warmup=recipe.warmup,
            floor=recipe.final_learning_rate,
        )
        loop.set_learning_rate(self.optimizers["student"], rate)
        rows = self._examples.drawn(self._batch, generator)
        parts = rows.tensor_split(len(self._timesteps))
        latents = torch.cat([self._latents(number, part) for number, part in enumerate(parts)])
        times = torch.cat(
            [torch.full_like(part, t) for part, t in zip(parts, self._timesteps, strict=True)]
        )
        output = self._rollout.estimate(
            self.student, latents, times.to(latents.device), self._examples.embeds(rows)
        )
        losses = self._losses(output, self._examples.targets(rows))
        loss = torch.stack(
            [w * value for w, value in zip(recipe.pass_weights, losses, strict=True)]
        ).sum()
        norm = self.update("student", loss, clipped_norm=recipe.clipped_norm)
        measured = {"loss": float(loss.detach()), "gradient_norm": norm}
        measured["latents_std"] = float(output.detach().std())
        if len(losses) > 1:
            for t, value in zip(self._timesteps, losses, strict=True):
                measured[f"loss_{t}"] = float(value.detach())
        return measured | self._watch(index, recipe)

    def _latents(self, number: int, rows: Tensor) -> Tensor:
        """Return the inputs of pass `number` for pairs `rows`, [B, C, h, w]: noise, or simulated and path points."""
        if number == 0:
            return self._examples.noise(rows)
        count = round((self._recipe.simulated or 0.0) * len(rows))
        simulated, followed = rows[:count], rows[count:]
        parts = []
        if len(simulated):
            noise, embeds = self._examples.noise(simulated), self._examples.embeds(simulated)
            parts.append(self._rollout.arrive(self.student, noise, embeds, index=number))
        if len(followed):
            parts.append(self._examples.path(followed, self._timesteps[number]))
        return torch.cat(parts)

    def _losses(self, output: Tensor, targets: Tensor) -> list[Tensor]:
        """Return the loss of each pass on its part of the batch."""
        passes = len(self._timesteps)
        return [
            self._perception.regression(ours, theirs)
            for ours, theirs in zip(
                output.tensor_split(passes), targets.tensor_split(passes), strict=True
            )
        ]


def train(recipe: RegressionRecipe, inputs: TuningInputs) -> UNet2DConditionModel:
    """Train (resuming from the folder's checkpoint); save the averaged student in folder/unet and return it, frozen.

    The student is changed in place. Raises RecipeRefused, TrainingDiverged,
    CheckpointUnusable.
    """
    task = RegressionTask(recipe, inputs)
    run(task, recipe, inputs, title="regression", pictures=task.pictures)
    networks.save(task.averaged, inputs.folder / "unet")
    return task.averaged
