"""Stage `joint`: joint training of a student and its decoder on the error of the pictures.

Earlier stages trained them separately: the student on the teacher's latents, the decoder on the VAE's pictures of those
latents. A decoder without norms lacks global information, such as the brightness of the whole picture; the student,
which has it, can encode it in the latents, and the decoder adapts to the student's latents. The targets are the
pictures of the teacher's VAE for the teacher's latents of the same noise.
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
    """pictures: number of pairs, evenly selected, whose VAE pictures are kept in memory.

    least_margin: least margin of the detector for pairs that are trained on. A barely accepted picture is close to a
    rejected one, and so is the student's picture for its noise; for noise that is left out the student generalises from
    neighbouring noise.
    latents_weight: of the pseudo-Huber error of the latents, which keeps them close to the teacher's.
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
    """Training of both networks as one module, for `distillation.training.loop`."""

    def __init__(self, recipe: JointRecipe, inputs: TuningInputs) -> None:
        """Raises RecipeRefused if no pair has the margin."""
        super().__init__(inputs, pairs=_sure(recipe, inputs.pairs))
        self._recipe = recipe
        self._labels = inputs.labels
        self._targets = VaePictures(inputs.teacher, self._examples.latents)
        self._decoder.encoder.requires_grad_(False)
        decoder = self._decoder.decoder.to(memory_format=torch.channels_last)
        trained = nn.ModuleDict({"student": self.student, "decoder": decoder})
        trained.to(inputs.teacher.device).train().requires_grad_(True)
        self.add_by(recipe, "both", trained, weight_decay=recipe.weight_decay)
        self._loss = PictureLoss(
            recipe, self, device=inputs.teacher.device, real_images=inputs.real_images
        )

    @property
    def averaged(self) -> UNet2DConditionModel:
        return cast(UNet2DConditionModel, self.emas["both"].module.get_submodule("student"))

    @property
    def decoder_network(self) -> nn.Module:
        return self.emas["both"].module.get_submodule("decoder")

    def averaged_decoder(self) -> AutoencoderTiny:
        """Return the decoder to save: the trained network with the averaged weights, frozen."""
        return with_weights(self._decoder, self.decoder_network)

    def step(self, index: int, generator: Generator) -> dict[str, float]:
        recipe, examples = self._recipe, self._examples
        loop.anneal(self.optimizers["both"], index, recipe)
        rows = examples.drawn(processes.share(recipe.batch), generator)
        noise, embeds = examples.noise(rows), examples.embeds(rows)
        output = self._rollout.one_pass(self.student, noise, embeds, generator)
        with self._teacher.autocast():
            drawn = decoded(self._decoder, output).float()
        targets = self._targets.of(rows.tolist())
        loss, errors = self._loss(index, drawn, targets, examples.prompts(rows), generator)
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
    """Return the pairs with the margin, evenly selected if there are more than the recipe's `pictures`."""
    sure = (pairs.margins >= recipe.least_margin).nonzero()[:, 0]
    if not len(sure):
        raise RecipeRefused(
            f"joint.least_margin ({recipe.least_margin}): no picture has that margin. Give a lower one."
        )
    count = min(recipe.pictures, len(sure))
    return pairs.take(sure[torch.linspace(0, len(sure) - 1, count).round().long()])


def train(
    recipe: JointRecipe, inputs: TuningInputs
) -> tuple[UNet2DConditionModel, AutoencoderTiny]:
    """Train (resuming from the folder's checkpoint); return the averages, frozen; save them in folder/unet, folder/vae.

    Student and decoder are changed in place. Raises RecipeRefused, TrainingDiverged,
    CheckpointUnusable.
    """
    task = JointTask(recipe, inputs)
    run(task, recipe, inputs, title="joint", pictures=task.pictures)
    unet, decoder = task.averaged, task.averaged_decoder()
    networks.save(unet, inputs.folder / "unet")
    networks.save(decoder, inputs.folder / "vae")
    return unet, decoder
