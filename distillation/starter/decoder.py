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

from distillation.starter.latents import Latents
from distillation.starter.vae import as_values, psnr_of, reconstruction_errors, spread
from distillation.training import loop, networks
from distillation.training.ema import Ema

if TYPE_CHECKING:
    from distillation.starter.photographs import Photographs


@dataclass(frozen=True)
class DecoderRecipe:
    """Training on whole images; the loss is the VAE's without its KL, weighted by `…_weight`."""

    steps: int = 900
    batch: int = 6
    learning_rate: float = 8e-4  # peak; half a cosine to zero
    warmup: int = 30
    betas: tuple[float, float] = (0.9, 0.99)
    clipped_norm: float = 1.0
    ema_decay: float = 0.99
    squared_weight: float = 8.0
    gradient_weight: float = 0.5
    saturation_weight: float = 1.0
    object_weight: float = 2.0
    is_bf16: bool = True
    validate_every: int = 100
    validated: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.steps, self.batch, self.validate_every, self.validated) < 1:
            raise ValueError("Steps, batches and validations must be at least 1.")
        if not 0 <= self.warmup <= self.steps:
            raise ValueError("The warm-up must end within the run.")
        if min(self.learning_rate, self.clipped_norm) <= 0:
            raise ValueError("The learning rate and the clipped norm must be above 0.")


class DecoderTask:
    """The training task for `distillation.training.loop`: the decoder and the convolution before it."""

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
        self.vae = vae.requires_grad_(False)
        trained = torch.nn.ModuleDict({"post": vae.post_quant_conv, "decoder": vae.decoder})
        trained.requires_grad_(True)
        self._recipe = recipe
        self._photographs = photographs
        self._latents = latents.values
        self._validation = spread(validation.images, recipe.validated)
        self._optimizer = torch.optim.AdamW(
            trained.parameters(),
            lr=recipe.learning_rate,
            betas=recipe.betas,
            weight_decay=0.0,
            fused=True,
        )
        self._trained = trained
        self._ema = Ema(vae, recipe.ema_decay)
        self.modules: dict[str, torch.nn.Module] = {"vae": vae}
        self.optimizers: dict[str, torch.optim.Optimizer] = {"decoder": self._optimizer}
        self.emas: dict[str, Ema] = {"vae": self._ema}

    @property
    def averaged(self) -> AutoencoderKL:
        """The VAE with the averaged weights of the decoder."""
        return self._ema.module

    def step(self, index: int, generator: Generator) -> dict[str, float]:
        recipe = self._recipe
        loop.anneal(self._optimizer, index, recipe)
        images, masks, latents = self._batch(generator)
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.is_bf16):
            output = self.vae.decode(latents / self.vae.config.scaling_factor).sample
        errors = reconstruction_errors(
            output.float(),
            images,
            masks,
            saturation_weight=recipe.saturation_weight,
            object_weight=recipe.object_weight,
        )
        loss = (
            errors["absolute"]
            + recipe.squared_weight * errors["squared"]
            + recipe.gradient_weight * errors["gradient"]
        )
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._trained.parameters(), recipe.clipped_norm)
        self._optimizer.step()
        self._ema.update()
        measured = {name: float(value.detach()) for name, value in {"loss": loss, **errors}.items()}
        if (index + 1) % recipe.validate_every == 0 or index + 1 == recipe.steps:
            measured["validation_psnr"] = psnr_of(
                self.averaged, self._validation, is_bf16=recipe.is_bf16
            )
        return measured

    def _batch(self, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Return images [B, 3, s, s] in [−1, 1], masks [B, 1, s, s], scaled latents [B, c, h, w]; some mirrored."""
        rows = torch.randint(len(self._photographs), (self._recipe.batch,), generator=generator)
        views = torch.randint(min(2, self._latents.shape[1]), rows.shape, generator=generator)
        images, masks = self._photographs.images[rows], self._photographs.masks[rows][:, None]
        is_mirrored = views == 1
        images[is_mirrored] = images[is_mirrored].flip(-1)
        masks[is_mirrored] = masks[is_mirrored].flip(-1)
        latents = self._latents[rows, views].float()
        return as_values(images), masks.float(), latents


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
    loop.run(
        task,
        folder,
        steps=recipe.steps,
        seed=recipe.seed,
        title="decoder",
        progress_bar=progress_bar,
    )
    networks.save(task.averaged, Path(folder) / "vae")
    return networks.load(AutoencoderKL, Path(folder) / "vae")
