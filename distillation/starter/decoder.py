"""Stage `decoder`: add a level to the VAE, for images of twice the size, and train its decoder on fixed latents.

The teacher is trained on the latents of the stage `vae`, so the latent space stays fixed. The decoder can be trained
independently of the teacher.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Generator, Tensor

from distillation.detector.network import as_float
from distillation.image_metrics import sharpness
from distillation.image_metrics.distances import psnr
from distillation.losses.texture import texture_error
from distillation.starter import growing
from distillation.starter.growing import EncoderRecipe, EncoderTask
from distillation.starter.latents import Latents
from distillation.starter.vae import BATCH, Reconstruction, ReconstructionTask, spread
from distillation.trainers.patches import Patches, PatchesRecipe
from distillation.training import loop, networks
from generation.engine.latents import as_uint8

if TYPE_CHECKING:
    from distillation.starter.photographs import Photographs


@dataclass(frozen=True)
class DecoderRecipe(Reconstruction):
    """Training on crops, then on whole images. Loss: the VAE's without KL, plus a texture and an adversarial loss."""

    steps: int = 2000
    batch: int = 8  # crops
    crop: int = 128  # pixels a side
    whole_share: float = 0.2  # of the steps: the last ones are on whole images
    whole_batch: int = 2
    learning_rate: float = 2e-3  # peak; cosine decay to zero
    warmup: int = 30
    ema_decay: float = 0.99
    squared_weight: float = 8.0
    saturation_weight: float = 1.0
    gradient_weight: float = 0.2
    texture_weight: float = 20.0
    patches: PatchesRecipe = field(default_factory=lambda: PatchesRecipe(start_step=500))
    encoder: EncoderRecipe = field(default_factory=EncoderRecipe)
    validate_every: int = 100
    validated: int = 24


class DecoderTask(ReconstructionTask):
    """Training task of the decoder and of the convolution before it, for `distillation.training.loop`."""

    def __init__(
        self,
        recipe: DecoderRecipe,
        vae: AutoencoderKL,
        *,
        photographs: "Photographs",
        latents: Latents,
        validation: "Photographs",
        validation_latents: Latents,
    ) -> None:
        """vae: with the added level; latents: of the photographs in their order, views: image and mirror image."""
        if latents.combinations != photographs.combinations:
            raise ValueError(
                "The latents are not those of these photographs. Delete their folder and run `make starter`."
            )
        if latents.values.shape[1] > 2:
            raise ValueError(
                "The decoder is trained on whole photographs and their mirror images. Encode latents with zooms=0."
            )
        vae.requires_grad_(False)
        trained = torch.nn.ModuleDict({"post": vae.post_quant_conv, "decoder": vae.decoder})
        trained.requires_grad_(True)
        super().__init__(
            recipe, vae, trained, name="decoder", steps=recipe.steps, validation=validation.images
        )
        self._recipe, self._photographs, self._latents = recipe, photographs, latents.values
        self._validation_latents = spread(validation_latents.values[:, 0], recipe.validated).float()
        self._patches = Patches(recipe.patches, self, seed=recipe.seed, device=vae.device)

    def step(self, index: int, generator: Generator) -> dict[str, float]:
        recipe = self._recipe
        loop.anneal(self._optimizer, index, recipe)
        images, masks, latents = self._batch(index, generator)
        with networks.autocast(is_bf16=recipe.is_bf16):
            output = self.vae.decode(latents / self.vae.config.scaling_factor).sample
        output = output.float()
        extra_losses = {"texture": (recipe.texture_weight, texture_error(output, images))}
        adversarial = self._patches.error(index, output, images, generator)
        if adversarial is not None:
            extra_losses["adversarial"] = recipe.patches.weight, adversarial
        losses = self._update(index, output, images, masks, extra_losses)
        return losses | self._patches.learn(index, generator)

    def _batch(self, index: int, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Return images [B, 3, s, s] in [−1, 1], masks [B, 1, s, s], scaled latents [B, c, h, w]; randomly mirrored."""
        recipe, whole = self._recipe, self._photographs.images.shape[-1]
        is_whole = index >= recipe.steps - round(recipe.steps * recipe.whole_share)
        count = recipe.whole_batch if is_whole else recipe.batch
        factor = whole // self._latents.shape[-1]
        size = whole if is_whole else min(recipe.crop, whole)
        rows = torch.randint(len(self._photographs), (count,), generator=generator)
        views = torch.randint(self._latents.shape[1], rows.shape, generator=generator)
        places = (whole - size) // factor + 1
        top, left = torch.randint(places, (2,), generator=generator).tolist()
        y, x = slice(top * factor, top * factor + size), slice(left * factor, left * factor + size)
        images, masks = self._photographs.images[rows], self._photographs.masks[rows][:, None]
        is_mirrored = views == 1
        images[is_mirrored] = images[is_mirrored].flip(-1)
        masks[is_mirrored] = masks[is_mirrored].flip(-1)
        small = size // factor
        latents = self._latents[rows, views, :, top : top + small, left : left + small].float()
        return as_float(images[..., y, x]), masks[..., y, x].float(), latents

    @torch.no_grad()
    def _validated(self) -> dict[str, float]:
        """Return metrics of decoded validation latents: PSNR in dB, and sharpness relative to the photographs."""
        decoded = []
        for part in self._validation_latents.split(BATCH):
            with networks.autocast(is_bf16=self._recipe.is_bf16):
                output = self.averaged.decode(part / self.vae.config.scaling_factor).sample
            decoded.append(as_uint8(output.float()))
        images, photographs = torch.cat(decoded), self._validation
        return {
            "validation_psnr": float(psnr(photographs, images).mean()),
            "validation_gradient": float(
                sharpness.gradient(images).mean() / sharpness.gradient(photographs).mean()
            ),
            "validation_laplacian": float(
                sharpness.laplacian_variance(images).mean()
                / sharpness.laplacian_variance(photographs).mean()
            ),
        }


def train(
    recipe: DecoderRecipe,
    *,
    vae_folder: Path,
    photographs: "Photographs",
    latents: Latents,
    validation: "Photographs",
    validation_latents: Latents,
    folder: Path,
    progress_bar: bool,
) -> AutoencoderKL:
    """Add a level to the VAE, train its encoder part, then the decoder; save the VAE in folder/vae and return it, fp32.

    Resumes from the checkpoints in `folder`.
    """
    smaller = networks.load(AutoencoderKL, vae_folder)
    larger = growing.grown(smaller)
    encoder = EncoderTask(recipe.encoder, larger, smaller, photographs.images)
    loop.train(
        encoder,
        recipe.encoder,
        folder=Path(folder) / "encoder",
        title="encoder",
        progress_bar=progress_bar,
    )
    task = DecoderTask(
        recipe,
        larger,
        photographs=photographs,
        latents=latents,
        validation=validation,
        validation_latents=validation_latents,
    )
    loop.train(task, recipe, folder=folder, title="decoder", progress_bar=progress_bar)
    networks.save(task.averaged, Path(folder) / "vae")
    return networks.load(AutoencoderKL, Path(folder) / "vae")
