"""Conversion of images and latents. Conventions: pixels in [−1, 1], latents × the VAE's scaling factor."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from generation.engine.errors import ReleaseInvalid

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny


def image_to_latents(vae: "AutoencoderKL", images: torch.Tensor) -> torch.Tensor:
    """Encode images (batch, 3, height, width) in [−1, 1] to latents (batch, channels, height ÷ 8, width ÷ 8) in fp32.

    They are the mean of the VAE's distribution.
    """
    latents = vae.encode(images.to(vae.device, vae.dtype)).latent_dist.mode()
    return (latents.float() - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor


def latents_to_image(vae: "AutoencoderKL", latents: torch.Tensor) -> torch.Tensor:
    """Decode latents, scaled as by `image_to_latents`, to images (batch, 3, height, width) in [−1, 1], fp32."""
    latents = latents / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)
    latents = latents.to(vae.device, vae.dtype)
    if vae.device.type in ("cpu", "cuda"):
        latents = latents.to(memory_format=torch.channels_last)
    return decoded(vae, latents).float().clamp(-1, 1)


def decoded(vae: "AutoencoderKL | AutoencoderTiny", latents: torch.Tensor) -> torch.Tensor:
    """Decode unscaled latents to images (batch, 3, height, width), neither clamped nor converted."""
    return as_images(vae.decode(latents).sample)


def as_images(output: torch.Tensor) -> torch.Tensor:
    """Return a decoder's output as images (batch, 3, height, width).

    An output of 3·s² channels is rearranged to blocks of s × s pixels: a pixel shuffle (arXiv 1609.05158). Raises
    ReleaseInvalid.
    """
    return F.pixel_shuffle(output, _shuffle(output.shape[1]))


def pixels_per_latent(config: Any) -> int:
    """Return the side length in pixels of one latent position. config: AutoencoderKL's or AutoencoderTiny's.

    Raises ReleaseInvalid.
    """
    factor: int = 2 ** (len(config.block_out_channels) - 1) * _shuffle(config.out_channels)
    return factor


def _shuffle(channels: int) -> int:
    """Return s of 3·s² channels. Raises ReleaseInvalid."""
    found = math.isqrt(channels // 3)
    if 3 * found**2 != channels or not found:
        raise ReleaseInvalid(
            f"vae: out_channels is {channels}, which is not 3·s². Give 3, or 12, 27, 48 … for a decoder that ends in a "
            "pixel shuffle."
        )
    return found


def to_pixels(images: torch.Tensor) -> npt.NDArray[np.uint8]:
    """Convert images (batch, 3, height, width) in [−1, 1] to uint8 (batch, height, width, 3)."""
    return as_uint8(images).permute(0, 2, 3, 1).contiguous().cpu().numpy()


def as_uint8(images: torch.Tensor) -> torch.Tensor:
    """Convert images to uint8, in the same layout and on the same device."""
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def from_pixels(pixels: npt.NDArray[np.uint8]) -> torch.Tensor:
    """Convert uint8 (batch, height, width, 3) to images (batch, 3, height, width) in [−1, 1], fp32."""
    return torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1
