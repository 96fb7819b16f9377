"""Train the VAE on photographs: first on crops, which cost less, then on whole images.

A VAE trained only on crops reconstructs whole images with wrong borders and tints, because the GroupNorm statistics of
whole images differ.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Generator, Tensor

from distillation.detector.network import as_float
from distillation.image_metrics.distances import psnr
from distillation.training import loop, networks
from distillation.training.ema import Ema
from distillation.training.optimizers import muon, update
from distillation.training.task import Trained
from generation.engine.latents import as_uint8

if TYPE_CHECKING:
    from distillation.starter.photographs import Photographs

MEASURED = 1024  # photographs from which the scaling factor is computed
BATCH = 16  # photographs per forward pass outside training: larger is not faster on a CPU


@dataclass(frozen=True)
class Reconstruction:
    """Common fields of trainings with a reconstruction loss. `…_weight`: of its terms, on values in [−1, 1]."""

    betas: tuple[float, float] = (0.9, 0.99)  # of AdamW, for biases and norms; other weights: Muon
    clipped_norm: float = 1.0
    # Averages about 200 steps. With 0.999, 40 % of the average would come from the steps on crops.
    ema_decay: float = 0.995
    saturation_weight: float = 3.0  # without it, colours stay grey for many steps
    squared_weight: float = 4.0
    gradient_weight: float = 0.5
    object_weight: float = 3.0  # of the object's pixels, relative to those of the ground
    is_bf16: bool = True  # forward and backward passes; weights and updates stay fp32
    validate_every: int = 250  # steps
    validated: int = 32  # photographs
    seed: int = 0


@dataclass(frozen=True)
class VaeRecipe(Reconstruction):
    """The network, and its training on crops, then on whole images.

    The learning rate has a cosine decay from `crop_learning_rate` to `whole_learning_rate` over the steps on crops,
    then to zero over those on whole images.
    """

    size: int = (
        128  # pixels per side, to which photographs are scaled; the stage `decoder` doubles it
    )
    channels: tuple[int, ...] = (
        32,
        64,
        128,
        128,
    )  # per level; all levels but the last downsample by 2
    layers: int = 1  # per block
    latent_channels: int = 8
    # Groups of 4 channels in the first level: groups of one channel would remove the brightness of an image.
    norm_groups: int = 8
    crop: int = 64  # pixels a side
    crop_steps: int = 2800
    crop_batch: int = 16
    crop_learning_rate: float = 2e-3
    whole_steps: int = 2800
    whole_batch: int = 6
    whole_learning_rate: float = 1e-3
    warmup: int = 100
    kl_weight: float = 2e-4  # of the KL divergence per latent value
    is_channels_last: bool = False

    @property
    def steps(self) -> int:
        return self.crop_steps + self.whole_steps


def build(recipe: VaeRecipe, *, image_size: int) -> AutoencoderKL:
    """Return an untrained VAE for square images of `image_size` pixels. Its scaling factor is set after training."""
    levels = len(recipe.channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=recipe.channels,
        layers_per_block=recipe.layers,
        latent_channels=recipe.latent_channels,
        norm_num_groups=recipe.norm_groups,
        sample_size=image_size,
        scaling_factor=1.0,
        mid_block_add_attention=False,
    )


class ReconstructionTask(Trained):
    """Base of the training tasks of the VAE and of its decoder, for `distillation.training.loop`."""

    def __init__(
        self,
        recipe: Reconstruction,
        vae: AutoencoderKL,
        trained: torch.nn.Module,
        *,
        name: str,
        steps: int,
        validation: Tensor,
    ) -> None:
        """trained: the part of the VAE to train; name: of its optimiser; validation: uint8 [N, 3, size, size]."""
        super().__init__()
        self.vae = vae
        self._reconstruction, self._steps = recipe, steps
        self._validation = spread(validation, recipe.validated)
        self._optimizer = self.optimizers[name] = muon(
            trained, learning_rate=1.0, weight_decay=0.0, betas=recipe.betas
        )
        self.modules["vae"] = vae
        self.emas["vae"] = Ema(vae, recipe.ema_decay)

    @property
    def averaged(self) -> AutoencoderKL:
        """The VAE with averaged weights, which is saved."""
        return self.emas["vae"].module

    def _update(
        self,
        index: int,
        output: Tensor,
        images: Tensor,
        masks: Tensor,
        extra_losses: Mapping[str, tuple[float, Tensor]],
    ) -> dict[str, float]:
        """Make the update of step `index` and return its losses and metrics.

        output, images: [B, 3, s, s] in [−1, 1]; masks: [B, 1, s, s]; extra_losses: further terms, with their weights.
        """
        recipe = self._reconstruction
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
        for name, (weight, error) in extra_losses.items():
            loss = loss + weight * error
            errors[name] = error
        update(self._optimizer, loss, clipped_norm=recipe.clipped_norm)
        self.emas["vae"].update()
        measured = {name: float(value.detach()) for name, value in {"loss": loss, **errors}.items()}
        if (index + 1) % recipe.validate_every == 0 or index + 1 == self._steps:
            measured |= self._validated()
        return measured

    def _validated(self) -> dict[str, float]:
        """Return metrics of the averaged VAE on the validation photographs: PSNR in dB."""
        is_bf16 = self._reconstruction.is_bf16
        return {"validation_psnr": psnr_of(self.averaged, self._validation, is_bf16=is_bf16)}


class VaeTask(ReconstructionTask):
    """Training task of the whole VAE."""

    def __init__(
        self, recipe: VaeRecipe, *, images: Tensor, masks: Tensor, validation: Tensor
    ) -> None:
        """images, validation: uint8 [N, 3, size, size]; masks: uint8 [N, size, size], 1 on the object."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            vae = build(recipe, image_size=images.shape[-1])
        self._layout = torch.channels_last if recipe.is_channels_last else torch.contiguous_format
        vae.to(memory_format=self._layout)
        super().__init__(recipe, vae, vae, name="vae", steps=recipe.steps, validation=validation)
        self._recipe, self._images, self._masks = recipe, images, masks

    def step(self, index: int, generator: Generator) -> dict[str, float]:
        recipe = self._recipe
        loop.set_learning_rate(self._optimizer, learning_rate(recipe, index))
        images, masks = self._batch(index, generator)
        with networks.autocast(is_bf16=recipe.is_bf16):
            distribution = self.vae.encode(images).latent_dist
            noise = torch.randn(distribution.mean.shape, generator=generator)
            latents = distribution.mean + distribution.std * noise
            output = self.vae.decode(latents.contiguous(memory_format=self._layout)).sample
        kl = kl_divergence(distribution)
        return self._update(index, output, images, masks, {"kl": (recipe.kl_weight, kl)})

    def _batch(self, index: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Return images [B, 3, s, s] in [−1, 1] and masks [B, 1, s, s], randomly mirrored; crops first, then whole."""
        recipe = self._recipe
        whole = self._images.shape[-1]
        size = recipe.crop if index < recipe.crop_steps else whole
        count = recipe.crop_batch if index < recipe.crop_steps else recipe.whole_batch
        chosen = torch.randint(len(self._images), (count,), generator=generator).tolist()
        corners = torch.randint(whole - size + 1, (count, 2), generator=generator).tolist()
        mirrored = torch.rand(count, generator=generator) < 0.5
        places = [
            (row, slice(top, top + size), slice(left, left + size))
            for row, (top, left) in zip(chosen, corners, strict=True)
        ]
        images = torch.stack([self._images[row, :, y, x] for row, y, x in places])
        masks = torch.stack([self._masks[row, y, x] for row, y, x in places])[:, None]
        images[mirrored], masks[mirrored] = images[mirrored].flip(-1), masks[mirrored].flip(-1)
        return as_float(images).contiguous(memory_format=self._layout), masks.float()


def learning_rate(recipe: VaeRecipe, index: int) -> float:
    """Return the learning rate of step `index`, from 0."""
    if index < recipe.crop_steps:
        return loop.cosine(
            index,
            steps=recipe.crop_steps,
            peak=recipe.crop_learning_rate,
            warmup=min(recipe.warmup, recipe.crop_steps),
            floor=recipe.whole_learning_rate,
        )
    warmup = 0 if recipe.crop_steps else min(recipe.warmup, recipe.whole_steps)
    return loop.cosine(
        index - recipe.crop_steps,
        steps=recipe.whole_steps,
        peak=recipe.whole_learning_rate,
        warmup=warmup,
    )


def reconstruction_errors(
    output: Tensor,
    target: Tensor,
    masks: Tensor,
    *,
    saturation_weight: float,
    object_weight: float,
) -> dict[str, Tensor]:
    """Return three errors by name, each a mean over pixels and channels; the object's pixels weigh `object_weight`.

    absolute: |error| × (1 + saturation_weight × saturation of the target), where saturation is the largest difference
    of two channels, in 0 … 1; squared: error²; gradient: |error of the difference to the next pixel|, right plus below.
    output, target: [B, 3, s, s] in [−1, 1]; masks: [B, 1, s, s].
    """
    weights = 1 + (object_weight - 1) * masks
    error = output - target
    saturation = (target.amax(1, keepdim=True) - target.amin(1, keepdim=True)) / 2
    right = error.diff(dim=3).abs() * weights[..., 1:]
    below = error.diff(dim=2).abs() * weights[..., 1:, :]
    return {
        "absolute": (error.abs() * (weights * (1 + saturation_weight * saturation))).mean(),
        "squared": (error.square() * weights).mean(),
        "gradient": right.mean() + below.mean(),
    }


def kl_divergence(distribution: DiagonalGaussianDistribution) -> Tensor:
    """Return the KL divergence from N(0, 1) in nats, averaged over latent values (diffusers: the sum per image)."""
    mean, log_variance = distribution.mean.float(), distribution.logvar.float()
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()


def train(
    recipe: VaeRecipe,
    *,
    photographs: "Photographs",
    validation: "Photographs",
    folder: Path,
    progress_bar: bool,
) -> AutoencoderKL:
    """Train, resuming from the folder's checkpoint; set the scaling factor, save in folder/vae and return the VAE.

    The saved weights are fp32.
    """
    task = VaeTask(
        recipe,
        images=photographs.images,
        masks=photographs.masks,
        validation=validation.images,
    )
    loop.train(task, recipe, folder=folder, title="vae", progress_bar=progress_bar)
    vae = task.averaged
    vae.register_to_config(scaling_factor=scaling_factor(vae, photographs.images))
    networks.save(vae, Path(folder) / "vae")
    return networks.load(AutoencoderKL, Path(folder) / "vae")


@torch.no_grad()
def psnr_of(vae: AutoencoderKL, images: Tensor, *, is_bf16: bool) -> float:
    """Return the mean PSNR in dB of images, uint8 [N, 3, H, W], reconstructed from the posterior mean."""
    values = []
    for part in images.split(BATCH):
        with networks.autocast(is_bf16=is_bf16):
            means = vae.encode(as_float(part)).latent_dist.mean
            output = vae.decode(means).sample
        values.append(psnr(part, as_uint8(output.float())))
    return float(torch.cat(values).mean())


@torch.inference_mode()
def scaling_factor(vae: AutoencoderKL, images: Tensor) -> float:
    """Return the factor that scales the latents to a standard deviation of 1. images: uint8 [N, 3, H, W]."""
    means = [
        vae.encode(as_float(part).to(vae.dtype)).latent_dist.mean.float()
        for part in spread(images, MEASURED).split(BATCH)
    ]
    return 1.0 / float(torch.cat(means).std())


def spread(images: Tensor, most: int) -> Tensor:
    """Return at most `most` images, at evenly spaced indices."""
    count = min(most, len(images))
    return images[torch.linspace(0, len(images) - 1, count).round().long()]
