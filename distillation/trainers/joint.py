"""Trains a student and its decoder together, on what people see: the picture. Knows no distributions.

Until here each was trained alone: the student onto the teacher's latents, the decoder to draw those latents. What a
decoder without norms cannot know (the brightness of the whole) the student, which sees all of its latents, can put into
them; and the decoder learns to draw latents as the student makes them. The targets are the pictures that the teacher's
VAE draws of the teacher's latents of the same noise.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Generator, Tensor, nn

from distillation.losses.pairs import pseudo_huber
from distillation.trainers import rollout
from distillation.trainers.catalogue import Catalogue
from distillation.trainers.decoder import picture_errors
from distillation.trainers.pairs import Pairs
from distillation.trainers.rollout import Examples
from distillation.trainers.sample_sheets import Samples, sheet_of
from distillation.trainers.teacher import Teacher
from distillation.trainers.vae_targets import VaePictures
from distillation.training import loop, networks, optimizers, processes
from distillation.training.ema import Ema
from distillation.training.errors import RecipeRefused


@dataclass(frozen=True)
class JointRecipe:
    """pictures: of how many pairs, evenly over them, the VAE's pictures are kept in memory.

    least_margin: of the detector's, of the pairs that are trained on. A picture that it barely accepts is near one that
    it rejects, and so is what the student makes of such noise; of the noise that is left out it makes what it makes of
    its neighbours.
    latents_weight: of the pseudo-Huber error of the latents, which keeps them near the teacher's.
    """

    steps: int = 1500
    batch: int = 16
    learning_rate: float = 2e-4  # peak, of both networks; half a cosine to zero
    warmup: int = 50
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    clipped_norm: float = 1.0
    ema_decay: float = 0.99
    pictures: int = 10_000
    least_margin: float = 0.0
    latents_weight: float = 0.1
    huber_c: float = 0.03  # of values in [−1, 1]: smaller errors count by their squares
    detail_weight: float = 1.0  # of differences between neighbouring pixels, at `scales` sizes
    scales: int = 3  # each half as large as the one before
    watch_every: int = 50
    watched: int = 64  # pairs
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "pictures", "scales", "watch_every", "watched"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}.")
        for name in ("learning_rate", "clipped_norm", "huber_c"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}.")
        if not 0 <= self.least_margin < 1:
            raise ValueError(f"least_margin must be in 0 … below 1, not {self.least_margin}.")
        for name in ("weight_decay", "latents_weight", "detail_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}.")
        if not 0 <= self.warmup <= self.steps:
            raise ValueError(f"warmup must lie from 0 to steps ({self.steps}), not {self.warmup}.")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must be in [0, 1), not {self.ema_decay}.")


class JointTask:
    """What is trained, for `distillation.training.loop`: the two networks as one."""

    def __init__(
        self,
        recipe: JointRecipe,
        *,
        teacher: Teacher,
        student: UNet2DConditionModel,
        decoder: AutoencoderTiny,
        pairs: Pairs,
        catalogue: Catalogue,
        timesteps: Sequence[int],
    ) -> None:
        """Raises RecipeRefused where the timesteps contradict the teacher, and if no pair has the margin."""
        self._timesteps = rollout.check(timesteps, teacher.schedule)
        self._recipe = recipe
        self._teacher = teacher
        pairs = pairs.take(pairs.accepted & (pairs.margins >= recipe.least_margin))
        if not len(pairs):
            raise RecipeRefused(
                f"joint.least_margin ({recipe.least_margin}): of no picture is the detector that sure. Give less."
            )
        count = min(recipe.pictures, len(pairs))
        pairs = pairs.take(torch.linspace(0, len(pairs) - 1, count).round().long())
        self._examples = Examples(teacher, pairs=pairs, catalogue=catalogue)
        self._pictures = VaePictures(teacher, self._examples.latents)
        decoder.encoder.requires_grad_(False)
        self._student, self._decoder = student, decoder
        trained = nn.ModuleDict(
            {
                "student": student,
                "decoder": decoder.decoder.to(memory_format=torch.channels_last),
            }
        )
        trained.to(teacher.device).train().requires_grad_(True)
        self._optimizer = optimizers.adamw(
            trained,
            learning_rate=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            betas=recipe.betas,
            fused=True,
        )
        self._ema = Ema(trained, recipe.ema_decay)
        self.modules: dict[str, nn.Module] = {"both": trained}
        self.optimizers: dict[str, torch.optim.Optimizer] = {"both": self._optimizer}
        self.emas: dict[str, Ema] = {"both": self._ema}

    @property
    def averaged(self) -> UNet2DConditionModel:
        """The student that is worth saving."""
        return cast(UNet2DConditionModel, self._ema.module.get_submodule("student"))

    def averaged_decoder(self) -> AutoencoderTiny:
        """The decoder that is worth saving, frozen. The network that was trained is it from now on."""
        averages = self._ema.module.get_submodule("decoder")
        self._decoder.decoder.load_state_dict(averages.state_dict())
        # safetensors writes the usual layout only.
        return self._decoder.to(memory_format=torch.contiguous_format).requires_grad_(False).eval()

    def pictures(self, samples: Samples) -> Tensor:
        """As both averages make them now: [B, 3, H, W] in [−1, 1]."""
        latents = samples.walked(self.averaged, self._timesteps)
        return samples.drawn(self._ema.module.get_submodule("decoder"), latents)

    def step(self, index: int, generator: Generator) -> dict[str, float]:
        recipe, examples = self._recipe, self._examples
        loop.anneal(self._optimizer, index, recipe)
        rows = examples.drawn(processes.share(recipe.batch), generator)
        output = rollout.one_pass(
            self._student,
            examples.noise(rows),
            examples.embeds(rows),
            teacher=self._teacher,
            timesteps=self._timesteps,
            generator=generator,
        )
        with self._teacher.autocast():
            drawn = self._decoder.decode(output).sample
        errors = picture_errors(
            drawn.float(),
            self._pictures.of(rows.tolist()),
            huber_c=recipe.huber_c,
            scales=recipe.scales,
        )
        errors["latents"] = pseudo_huber(output, examples.targets(rows))
        loss = (
            errors["pixels"]
            + recipe.detail_weight * errors["detail"]
            + recipe.latents_weight * errors["latents"]
        )
        norm = optimizers.update(self._optimizer, loss, clipped_norm=recipe.clipped_norm)
        self._ema.update()
        measured = {name: float(value.detach()) for name, value in {"loss": loss, **errors}.items()}
        measured["gradient_norm"] = norm
        if (index + 1) % recipe.watch_every == 0 or index + 1 == recipe.steps:
            measured |= rollout.watch(
                self.averaged,
                examples,
                teacher=self._teacher,
                timesteps=self._timesteps,
                count=recipe.watched,
            )
        return measured


def train(
    recipe: JointRecipe,
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
) -> tuple[UNet2DConditionModel, AutoencoderTiny]:
    """Train (going on from the folder's checkpoint); the averages, frozen, also saved in folder/unet and folder/vae.

    student, decoder: fp32, changed in place. pairs: of the training split; only accepted ones are used. timesteps:
    those the student is served in, descending. samples: whose sheet is drawn now and then; None = none. Raises
    RecipeRefused, TrainingDiverged, CheckpointUnusable.
    """
    task = JointTask(
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
        title="joint",
        progress_bar=progress_bar,
        draw=sheet_of(samples, folder, task.pictures),
    )
    unet, drawing = task.averaged, task.averaged_decoder()
    networks.save(unet, Path(folder) / "unet")
    networks.save(drawing, Path(folder) / "vae")
    return unet, drawing
