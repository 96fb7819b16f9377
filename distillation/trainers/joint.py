"""Stage `joint`: a student and its decoder learn together, by the error of the picture.

Before, each was trained alone: the student onto the teacher's latents, the decoder to draw those latents. What a
decoder without norms cannot know (the brightness of the whole) the student, which sees all of its latents, can put into
them; and the decoder learns to draw latents as the student makes them. The targets are the pictures that the teacher's
VAE draws of the teacher's latents of the same noise.
"""

from dataclasses import dataclass
from typing import cast

import torch
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Generator, nn

from distillation.losses.pairs import pseudo_huber
from distillation.trainers.decoder import with_weights
from distillation.trainers.few_step import FewStepTask, WatchedRecipe
from distillation.trainers.inputs import TuningInputs, run
from distillation.trainers.pairs import Pairs
from distillation.trainers.picture_loss import PictureLoss, PictureLossRecipe
from distillation.trainers.vae_targets import VaePictures
from distillation.training import checks, loop, networks, processes
from distillation.training.errors import RecipeRefused
from generation.engine.latents import decoded


@dataclass(frozen=True)
class JointRecipe(WatchedRecipe, PictureLossRecipe):
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
    pictures: int = 10_000
    least_margin: float = 0.0
    latents_weight: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.at_least_1(self, "pictures")
        checks.not_negative(self, "latents_weight")
        checks.at_most(self, "warmup", self.steps, "steps")
        checks.below_1(self, "least_margin")


class JointTask(FewStepTask):
    """The two networks under training as one, for `distillation.training.loop`."""

    def __init__(self, recipe: JointRecipe, inputs: TuningInputs) -> None:
        """Raises RecipeRefused where the timesteps contradict the teacher, and if no pair has the margin."""
        super().__init__(inputs, pairs=_sure(recipe, inputs.pairs))
        self._recipe = recipe
        self._labels = inputs.labels
        self._targets = VaePictures(inputs.teacher, self._examples.latents)
        self._decoder.encoder.requires_grad_(False)
        drawing = self._decoder.decoder.to(memory_format=torch.channels_last)
        trained = nn.ModuleDict({"student": self.student, "decoder": drawing})
        trained.to(inputs.teacher.device).train().requires_grad_(True)
        self.add_by(recipe, "both", trained, weight_decay=recipe.weight_decay)
        self._loss = PictureLoss(recipe, self, device=inputs.teacher.device)

    @property
    def averaged(self) -> UNet2DConditionModel:
        return cast(UNet2DConditionModel, self.emas["both"].module.get_submodule("student"))

    @property
    def drawing(self) -> nn.Module:
        return self.emas["both"].module.get_submodule("decoder")

    def averaged_decoder(self) -> AutoencoderTiny:
        """Return the decoder to save, frozen. The network that was trained takes its weights."""
        return with_weights(self._decoder, self.drawing)

    def step(self, index: int, generator: Generator) -> dict[str, float]:
        recipe, examples = self._recipe, self._examples
        loop.anneal(self.optimizers["both"], index, recipe)
        rows = examples.drawn(processes.share(recipe.batch), generator)
        noise, embeds = examples.noise(rows), examples.embeds(rows)
        output = self._rollout.one_pass(self.student, noise, embeds, generator)
        with self._teacher.autocast():
            drawn = decoded(self._decoder, output).float()
        targets = self._targets.of(rows.tolist())
        loss, errors = self._loss(index, drawn, targets, generator)
        errors["latents"] = pseudo_huber(output, examples.targets(rows))
        loss = loss + recipe.latents_weight * errors["latents"]
        if self._labels is not None:
            errors["labels"] = self._labels.loss(drawn, targets)
            loss = loss + self._labels.recipe.weight * errors["labels"]
        norm = self.update("both", loss, clipped_norm=recipe.clipped_norm)
        measured = {name: float(value.detach()) for name, value in {"loss": loss, **errors}.items()}
        measured["gradient_norm"] = norm
        return measured | self._loss.learn(index, generator) | self._watch(index, recipe)


def _sure(recipe: JointRecipe, pairs: Pairs) -> Pairs:
    """Return the accepted pairs with the margin, at most as many as the recipe has pictures, evenly over them."""
    sure = pairs.take(pairs.accepted & (pairs.margins >= recipe.least_margin))
    if not len(sure):
        raise RecipeRefused(
            f"joint.least_margin ({recipe.least_margin}): no picture has that margin. Give a lower one."
        )
    count = min(recipe.pictures, len(sure))
    return sure.take(torch.linspace(0, len(sure) - 1, count).round().long())


def train(
    recipe: JointRecipe, inputs: TuningInputs
) -> tuple[UNet2DConditionModel, AutoencoderTiny]:
    """Train (going on from the folder's checkpoint); return the averages, frozen; save them in folder/unet, folder/vae.

    Student and decoder are changed in place; only accepted pairs are used. Raises RecipeRefused, TrainingDiverged,
    CheckpointUnusable.
    """
    task = JointTask(recipe, inputs)
    run(task, recipe, inputs, title="joint", pictures=task.pictures)
    unet, decoder = task.averaged, task.averaged_decoder()
    networks.save(unet, inputs.folder / "unet")
    networks.save(decoder, inputs.folder / "vae")
    return unet, decoder
