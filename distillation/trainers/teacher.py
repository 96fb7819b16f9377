"""The frozen teacher of a training: its networks, its schedule and its guided prediction."""

import json
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from distillation.losses.noise_regression import guided
from distillation.trainers.schedule import NoiseSchedule
from distillation.training import networks, processes
from distillation.training.errors import RecipeRefused, TeacherRefused
from generation.engine import device as devices
from generation.engine import release as releases
from generation.engine.errors import EngineError
from generation.engine.latents import latents_to_image, pixels_per_latent
from generation.engine.networks import placed
from generation.engine.release import ENCODER_FOLDERS, NEGATIVE_EMBEDS, Manifest

# Largest number of latent positions for attention that stores its matrix of positions × positions.
PLAIN_PLACES = 1024
DECODED_PIXELS = 2 * 512 * 512  # in the VAE at once: activations take 0.8 GB for 512 × 512


@dataclass(frozen=True)
class Teacher:
    """A release's networks in fp32, on one device, and its manifest."""

    folder: Path
    manifest: Manifest
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    schedule: NoiseSchedule
    scheduler_config: dict[str, Any]  # diffusers' scheduler_config.json
    negative: Tensor | None  # fp32 [1, tokens, width], of the empty text; None if unguided
    device: torch.device
    is_bf16: bool  # whether the device gains from bf16 in the networks' passes
    # Folder in which `vae_targets` caches the VAE's pictures for other trainings on the same pairs; None = no cache.
    drawn: Path | None = None

    @property
    def guidance_scale(self) -> float:
        return self.manifest.guidance_scale

    @property
    def timesteps(self) -> tuple[int, ...]:
        return tuple(self.manifest.timesteps)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Return (channels, height, width) at the release's first size."""
        width, height = self.manifest.image_sizes[0]
        factor = pixels_per_latent(self.vae.config)
        return self.unet.config.in_channels, height // factor, width // factor

    def scale_of(self, given: float | None, *, field: str) -> float:
        """Return the guidance scale of a recipe's field, the teacher's own if None. Raises RecipeRefused."""
        scale = self.guidance_scale if given is None else given
        if scale != 1 and self.negative is None:
            raise RecipeRefused(
                f"{field} is {scale}, but {self.manifest.name} stores no embeddings of the empty text: give 1, or "
                "register the teacher with guidance."
            )
        return scale

    def attention_processor(self) -> AttnProcessor | AttnProcessor2_0:
        """Return the attention processor that U-Nets are trained with at this size.

        diffusers' plain one has the faster backward pass on a CPU, but stores the attention matrix, which takes 0.8 GB
        per layer and image at 64 × 64. The fused one recomputes it.
        """
        _, height, width = self.latent_shape
        is_plain = self.device.type == "cpu" and height * width <= PLAIN_PLACES
        return AttnProcessor() if is_plain else AttnProcessor2_0()

    def autocast(self) -> AbstractContextManager[object]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.is_bf16)

    @torch.no_grad()
    def predict(
        self,
        latents: Tensor,
        timesteps: Tensor,
        prompt_embeds: Tensor,
        *,
        guidance_scale: float | None = None,
    ) -> Tensor:
        """Return the guided prediction, fp32 [B, C, h, w], of the teacher's own prediction type.

        latents [B, C, h, w]; timesteps int64 [B]; prompt_embeds [B, tokens, width]. guidance_scale: None = the
        release's own; 1 takes one pass instead of two.
        """
        scale = self.guidance_scale if guidance_scale is None else guidance_scale
        if scale == 1:
            return self.passed(self.unet, latents, timesteps, prompt_embeds)
        embeds = torch.cat([self._empty(len(latents)).to(prompt_embeds), prompt_embeds])
        twice = latents.repeat(2, 1, 1, 1), timesteps.repeat(2)
        without, text = self.passed(self.unet, *twice, embeds).chunk(2)
        return guided(without, text, guidance_scale=scale)

    def guide(
        self, text: Tensor, latents: Tensor, timesteps: Tensor, *, guidance_scale: float
    ) -> Tensor:
        """Return the guided prediction of `predict` from text, the prediction for the same inputs at scale 1."""
        if guidance_scale == 1:
            return text
        without = self.predict(latents, timesteps, self._empty(len(latents)), guidance_scale=1)
        return guided(without, text, guidance_scale=guidance_scale)

    def _empty(self, count: int) -> Tensor:
        """Return embeddings of the empty text, fp32 [count, tokens, width]. Raises TeacherRefused."""
        if self.negative is None:
            raise TeacherRefused(
                f"{self.folder.name} was registered without guidance (guidance_scale 1), so it stores no embeddings of "
                "the empty text. Register the teacher with --guidance, or use guidance_scale 1."
            )
        return self.negative.expand(count, -1, -1)

    def passed(
        self, network: nn.Module, latents: Tensor, timesteps: Tensor, prompt_embeds: Tensor
    ) -> Tensor:
        """Return the prediction of one pass of a U-Net, the teacher's or a student's: fp32 [B, C, h, w]."""
        with self.autocast():
            output: Tensor = network(
                latents, timesteps, encoder_hidden_states=prompt_embeds, return_dict=False
            )[0]
        return output.float()

    @property
    def decoded_at_once(self) -> int:
        """Return the number of latents of the release's first size that the VAE decodes in one pass."""
        width, height = self.manifest.image_sizes[0]
        return max(1, DECODED_PIXELS // (width * height))

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Return images fp32 [B, 3, H, W] in [−1, 1]."""
        with self.autocast():
            parts = latents.split(self.decoded_at_once)
            return torch.cat([latents_to_image(self.vae, part) for part in parts])


def load(folder: Path, *, device: str = "auto") -> Teacher:
    """Load a teacher's release folder. Raises TeacherRefused."""
    folder = Path(folder)
    try:
        chosen = devices.choose(processes.device(device))
        manifest = releases.verify(folder, without=ENCODER_FOLDERS)
    except EngineError as error:
        raise TeacherRefused(error.detail) from error
    if manifest.kind != "teacher":
        raise TeacherRefused(
            f"{manifest.name} is a {manifest.kind}. Give the teacher that it was distilled from: {manifest.parent}."
        )
    config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text("utf-8"))
    negative = None
    try:
        unet = networks.load(UNet2DConditionModel, folder / "unet")
        vae = networks.load(AutoencoderKL, folder / "vae")
        if manifest.guidance_scale != 1:
            negative = load_file(folder / NEGATIVE_EMBEDS)["negative_prompt_embeds"].float()
            negative = negative.view(1, *manifest.embedding_shape).to(chosen.place)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise TeacherRefused(f"{folder}: {error}") from error
    for network in (unet, vae):
        _check_finite(network, folder)
    teacher = Teacher(
        folder=folder,
        manifest=manifest,
        unet=unet.to(chosen.place),
        vae=placed(vae, chosen),  # a fifth to a third faster
        scheduler_config=config,
        schedule=NoiseSchedule.from_config(config | {"prediction_type": manifest.prediction_type}),
        negative=negative,
        device=chosen.place,
        is_bf16=chosen.dtype != torch.float32,
    )
    unet.set_attn_processor(teacher.attention_processor())
    return teacher


def _check_finite(network: nn.Module, folder: Path) -> None:
    """Raise TeacherRefused for weights that would make the loss of every student infinite or NaN."""
    odd = [name for name, value in network.state_dict().items() if not value.isfinite().all()]
    if odd:
        raise TeacherRefused(
            f"{folder}: {len(odd)} tensors of {type(network).__name__} have infinite values or NaN, such as {odd[0]}. "
            "Copy the release again from its source, or train it again with a lower learning rate."
        )
