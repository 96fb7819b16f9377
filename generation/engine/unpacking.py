"""Conversion of a student release's networks to diffusers networks in fp32, for export or further training."""

from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors.torch import load_file

from generation.engine import folding, quantization
from generation.engine.networks import WEIGHTS, read_config, tiny_vae


def unet(folder: Path, timesteps: Sequence[int]) -> UNet2DConditionModel:
    """Return the U-Net of a folded U-Net's folder, with a time embedding (`folding.unfold`). Raises ReleaseInvalid."""
    tensors = quantization.dequantise(load_file(folder / WEIGHTS), torch.float32)
    return folding.unfold(read_config(folder), tensors, timesteps)


def decoder(folder: Path) -> AutoencoderTiny:
    """Return the decoder of a folder; its encoder is all zeros."""
    vae = tiny_vae(read_config(folder))
    state = {name: torch.zeros_like(tensor) for name, tensor in vae.state_dict().items()}
    vae.load_state_dict({**state, **load_file(folder / WEIGHTS)})
    return vae.requires_grad_(False).eval()
