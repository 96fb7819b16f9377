"""Further training of the VAE's decoder alone, with fixed latents.

The teacher learns the latents of the previous stage, so the encoder must not change any more; the decoder may, while or
after the teacher is trained, and every picture improves.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Generator, Tensor

from distillation.detector.network import as_float
from distillation.starter.latents import Latents
from distillation.starter.vae import Reconstruction, ReconstructionTask
from distillation.training import loop, networks

if TYPE_CHECKING:
    from distillation.starter.photographs import Photographs


@dataclass(frozen=True)
class DecoderRecipe(Reconstruction):
    """Training on whole images; the loss is the VAE's without its KL."""

    steps: int = 900
    batch: int = 6
    learning_rate: float = 8e-4  # peak; half a cosine to zero
    warmup: int = 30
    ema_decay: float = 0.99
    squared_weight: float = 8.0
    saturation_weight: float = 1.0
    validate_every: int = 100


class DecoderTask(ReconstructionTask):
    """Trains the decoder and the convolution before it."""

    def __init__(
        self,
        recipe: DecoderRecipe,
        vae: AutoencoderKL,
        *,
        photographs: "Photographs",
        latents: Latents,
        validation: "Photographs",
    ) -> None:
        """latents: of the photographs in their order; the first view is the whole, a second one its mirror image."""
        if latents.combinations != photographs.combinations:
            raise ValueError(
                "The latents are not those of these photographs. Delete their folder; `make starter` encodes them."
            )
        if latents.values.shape[1] > 2:
            raise ValueError(
                "The decoder is trained on whole photographs and their mirrors: encode latents with zooms=0."
            )
        vae.requires_grad_(False)
        trained = torch.nn.ModuleDict({"post": vae.post_quant_conv, "decoder": vae.decoder})
        trained.requires_grad_(True)
        super().__init__(
            recipe, vae, trained, name="decoder", steps=recipe.steps, validation=validation.images
        )
        self._recipe, self._photographs, self._latents = recipe, photographs, latents.values

    def step(self, index: int, generator: Generator) -> dict[str, float]:
        loop.anneal(self._optimizer, index, self._recipe)
        images, masks, latents = self._batch(generator)
        with networks.autocast(is_bf16=self._recipe.is_bf16):
            output = self.vae.decode(latents / self.vae.config.scaling_factor).sample
        return self._update(index, output, images, masks)

    def _batch(self, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Return images [B, 3, s, s] in [−1, 1], masks [B, 1, s, s], scaled latents [B, c, h, w]; some mirrored."""
        rows = torch.randint(len(self._photographs), (self._recipe.batch,), generator=generator)
        views = torch.randint(min(2, self._latents.shape[1]), rows.shape, generator=generator)
        images, masks = self._photographs.images[rows], self._photographs.masks[rows][:, None]
        is_mirrored = views == 1
        images[is_mirrored] = images[is_mirrored].flip(-1)
        masks[is_mirrored] = masks[is_mirrored].flip(-1)
        latents = self._latents[rows, views].float()
        return as_float(images), masks.float(), latents


def train(
    recipe: DecoderRecipe,
    *,
    vae_folder: Path,
    photographs: "Photographs",
    latents: Latents,
    validation: "Photographs",
    folder: Path,
    progress_bar: bool,
) -> AutoencoderKL:
    """Train, resuming from the folder's checkpoint; save the whole VAE in folder/vae, fp32, its encoder unchanged."""
    task = DecoderTask(
        recipe,
        networks.load(AutoencoderKL, vae_folder),
        photographs=photographs,
        latents=latents,
        validation=validation,
    )
    loop.train(task, recipe, folder=folder, title="decoder", progress_bar=progress_bar)
    networks.save(task.averaged, Path(folder) / "vae")
    return networks.load(AutoencoderKL, Path(folder) / "vae")
