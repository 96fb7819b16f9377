"""Trains a student of one or few passes onto the teacher's final latents of the same noise. Knows no distributions.

The warm start of distribution matching (DMD2's ODE pairs, arXiv 2405.14867): it never diverges, keeps the seed's
picture, and alone is a little soft. Pictures are never mirrored: noise and picture belong together.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Generator, Tensor

from distillation.trainers import perception, rollout
from distillation.trainers.catalogue import Catalogue
from distillation.trainers.pairs import Pairs
from distillation.trainers.perception import PerceptionRecipe
from distillation.trainers.rollout import Examples
from distillation.trainers.sample_sheets import Samples, sheet_of
from distillation.trainers.teacher import Teacher
from distillation.training import loop, networks, optimizers, processes
from distillation.training.ema import Ema
from distillation.training.errors import RecipeRefused


@dataclass(frozen=True)
class RegressionRecipe:
    """pass_weights: of the loss of each pass of the student, one for each of its timesteps.

    simulated: the share of what later passes get that the student's own earlier passes made; the rest are points of the
    teacher's path. None for a student of one pass.
    """

    steps: int = 1500
    batch: int = 32
    learning_rate: float = (
        2e-4  # peak; falls by half a cosine to final_learning_rate, stays if they are equal
    )
    final_learning_rate: float = 1e-6
    warmup: int = 50
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    clipped_norm: float = 1.0
    ema_decay: float = 0.99
    pass_weights: tuple[float, ...] = (1.0,)
    simulated: float | None = None
    perception: PerceptionRecipe = field(default_factory=PerceptionRecipe)
    watch_every: int = 50
    watched: int = 64  # pairs
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "watch_every", "watched"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}.")
        for name in ("learning_rate", "clipped_norm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}.")
        if not self.weight_decay >= 0:
            raise ValueError(f"weight_decay must not be negative, not {self.weight_decay}.")
        if not 0 <= self.final_learning_rate <= self.learning_rate:
            raise ValueError(
                f"final_learning_rate must lie from 0 to learning_rate ({self.learning_rate}), "
                f"not {self.final_learning_rate}."
            )
        if not 0 <= self.warmup <= self.steps:
            raise ValueError(f"warmup must lie from 0 to steps ({self.steps}), not {self.warmup}.")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must be in [0, 1), not {self.ema_decay}.")
        if not self.pass_weights or not all(weight > 0 for weight in self.pass_weights):
            raise ValueError(
                f"pass_weights must be above 0, one for each pass, not {self.pass_weights}."
            )
        if len(self.pass_weights) > self.batch:
            raise ValueError(
                f"batch ({self.batch}) must hold a row for each of the {len(self.pass_weights)} passes."
            )
        if (self.simulated is None) != (len(self.pass_weights) == 1):
            raise ValueError(
                "simulated is for the passes after the first: give it, from 0 to 1, if pass_weights has several, "
                f"and leave it out if it has one; not {self.simulated} with pass_weights {self.pass_weights}."
            )
        if self.simulated is not None and not 0 <= self.simulated <= 1:
            raise ValueError(f"simulated must lie from 0 to 1, not {self.simulated}.")


class RegressionTask:
    """What is trained, for `distillation.training.loop`."""

    def __init__(
        self,
        recipe: RegressionRecipe,
        *,
        teacher: Teacher,
        student: UNet2DConditionModel,
        decoder: AutoencoderTiny,
        pairs: Pairs,
        catalogue: Catalogue,
        timesteps: Sequence[int],
    ) -> None:
        """Raises RecipeRefused where recipe, timesteps and pairs contradict each other."""
        self._timesteps = rollout.check(timesteps, teacher.schedule)
        self._recipe = recipe
        self._check(pairs)
        self._teacher = teacher
        self._examples = Examples(teacher, pairs=pairs, catalogue=catalogue)
        self._perception = perception.make(recipe.perception, teacher=teacher, decoder=decoder)
        self._decoder = decoder
        self._batch = processes.share(recipe.batch)
        self.student = student.to(teacher.device).train().requires_grad_(True)
        self._optimizer = optimizers.adamw(
            student,
            learning_rate=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            betas=recipe.betas,
            fused=True,
        )
        self._ema = Ema(student, recipe.ema_decay)
        self.modules: dict[str, torch.nn.Module] = {"student": self.student}
        self.optimizers: dict[str, torch.optim.Optimizer] = {"student": self._optimizer}
        self.emas: dict[str, Ema] = {"student": self._ema}

    @property
    def averaged(self) -> UNet2DConditionModel:
        """What is worth saving."""
        student: UNet2DConditionModel = self._ema.module
        return student

    def pictures(self, samples: Samples) -> Tensor:
        """As the averaged student makes them now, drawn by the decoder that serves: [B, 3, H, W] in [−1, 1]."""
        latents = samples.walked(self.averaged, self._timesteps)
        return samples.drawn(self._decoder.decoder, latents)

    def step(self, index: int, generator: Generator) -> dict[str, float]:
        recipe = self._recipe
        rate = loop.cosine(
            index,
            steps=recipe.steps,
            peak=recipe.learning_rate,
            warmup=recipe.warmup,
            floor=recipe.final_learning_rate,
        )
        loop.set_learning_rate(self._optimizer, rate)
        rows = self._examples.drawn(self._batch, generator)
        parts = rows.tensor_split(len(self._timesteps))
        latents = torch.cat([self._latents(number, part) for number, part in enumerate(parts)])
        times = torch.cat(
            [torch.full_like(part, t) for part, t in zip(parts, self._timesteps, strict=True)]
        )
        output = rollout.estimate(
            self.student,
            latents,
            times.to(latents.device),
            self._examples.embeds(rows),
            teacher=self._teacher,
        )
        losses = self._losses(output, self._examples.targets(rows))
        loss = torch.stack(
            [w * value for w, value in zip(recipe.pass_weights, losses, strict=True)]
        ).sum()
        norm = optimizers.update(self._optimizer, loss, clipped_norm=recipe.clipped_norm)
        self._ema.update()
        measured = {"loss": float(loss.detach()), "gradient_norm": norm}
        measured["latents_std"] = float(output.detach().std())
        if len(losses) > 1:
            for t, value in zip(self._timesteps, losses, strict=True):
                measured[f"loss_{t}"] = float(value.detach())
        if (index + 1) % recipe.watch_every == 0 or index + 1 == recipe.steps:
            measured |= rollout.watch(
                self.averaged,
                self._examples,
                teacher=self._teacher,
                timesteps=self._timesteps,
                count=recipe.watched,
            )
        return measured

    def _latents(self, number: int, rows: Tensor) -> Tensor:
        """What pass `number` gets for pairs `rows`, [B, C, h, w]: noise; later, simulated and teacher's path points."""
        if number == 0:
            return self._examples.noise(rows)
        count = round((self._recipe.simulated or 0.0) * len(rows))
        simulated, followed = rows[:count], rows[count:]
        parts = []
        if len(simulated):
            parts.append(
                rollout.arrive(
                    self.student,
                    self._examples.noise(simulated),
                    self._examples.embeds(simulated),
                    teacher=self._teacher,
                    timesteps=self._timesteps,
                    index=number,
                )
            )
        if len(followed):
            parts.append(self._examples.path(followed, self._timesteps[number]))
        return torch.cat(parts)

    def _losses(self, output: Tensor, targets: Tensor) -> list[Tensor]:
        """One for each pass, of its part of the batch."""
        passes = len(self._timesteps)
        return [
            self._perception.regression(ours, theirs)
            for ours, theirs in zip(
                output.tensor_split(passes), targets.tensor_split(passes), strict=True
            )
        ]

    def _check(self, pairs: Pairs) -> None:
        recipe = self._recipe
        if len(recipe.pass_weights) != len(self._timesteps):
            raise RecipeRefused(
                f"pass_weights has {len(recipe.pass_weights)} values for a student of {len(self._timesteps)} passes "
                f"(timesteps {self._timesteps}): give one for each."
            )
        missing = [t for t in self._timesteps[1:] if t not in pairs.path_timesteps]
        if missing and recipe.simulated is not None and recipe.simulated < 1:
            raise RecipeRefused(
                f"timesteps has {missing}, where the pairs hold no points of the teacher's path (they do at "
                f"{pairs.path_timesteps}): make pairs with these in path_timesteps, or set simulated to 1."
            )


def train(
    recipe: RegressionRecipe,
    *,
    teacher: Teacher,
    student: UNet2DConditionModel,
    decoder: AutoencoderTiny,
    pairs: Pairs,
    catalogue: Catalogue,
    timesteps: tuple[int, ...],
    folder: Path,
    progress_bar: bool = True,
    samples: Samples | None = None,
) -> UNet2DConditionModel:
    """Train (going on from the folder's checkpoint); save the averaged student in folder/unet and give it, frozen.

    student: fp32, changed in place. decoder: the tiny one that serves, for the perceptual loss. pairs: of the training
    split; only accepted ones are used. timesteps: those the student will be served in, descending. samples: whose sheet
    is drawn now and then; None = none.
    Raises RecipeRefused, TrainingDiverged, CheckpointUnusable.
    """
    task = RegressionTask(
        recipe,
        teacher=teacher,
        student=student,
        decoder=decoder,
        pairs=pairs,
        catalogue=catalogue,
        timesteps=timesteps,
    )
    loop.run(
        task,
        folder,
        steps=recipe.steps,
        seed=recipe.seed,
        title="regression",
        progress_bar=progress_bar,
        draw=sheet_of(samples, folder, task.pictures),
    )
    networks.save(task.averaged, Path(folder) / "unet")
    return task.averaged
