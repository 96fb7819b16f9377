"""Conversion of images and latents. Conventions: pixels in [−1, 1], latents × the VAE's scaling factor."""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL


def image_to_latents(
    vae: "AutoencoderKL", images: torch.Tensor, *, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Encode images (batch, 3, height, width) in [−1, 1] to latents (batch, channels, height ÷ 8, width ÷ 8) in fp32.

    Without a generator the mean of the VAE's distribution, otherwise a sample.
    """
    distribution = vae.encode(images.to(vae.device, vae.dtype)).latent_dist
    latents = distribution.mode() if generator is None else distribution.sample(generator)
    return (latents.float() - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor


def latents_to_image(vae: "AutoencoderKL", latents: torch.Tensor) -> torch.Tensor:
    """Decode latents, scaled as by `image_to_latents`, to images (batch, 3, height, width) in [−1, 1], fp32."""
    latents = latents / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)
    latents = latents.to(vae.device, vae.dtype)
    if vae.device.type in ("cpu", "cuda"):
        latents = latents.to(memory_format=torch.channels_last)
    return vae.decode(latents).sample.float().clamp(-1, 1)


def to_pixels(images: torch.Tensor) -> npt.NDArray[np.uint8]:
    """Convert images (batch, 3, height, width) in [−1, 1] to uint8 (batch, height, width, 3)."""
    return as_uint8(images).permute(0, 2, 3, 1).contiguous().cpu().numpy()


def as_uint8(images: torch.Tensor) -> torch.Tensor:
    """Return the same values in the layout of the images, on their device."""
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def from_pixels(pixels: npt.NDArray[np.uint8]) -> torch.Tensor:
    """Convert uint8 (batch, height, width, 3) to images (batch, 3, height, width) in [−1, 1], fp32."""
    return torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1
