"""The networks of a student release as stock diffusers networks in fp32: to be exported, or to be trained on.

Knows no training and no files but a release's.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors.torch import load_file

from generation.engine import folding, quantization
from generation.engine.networks import WEIGHTS, read_config, tiny_vae


def unet(folder: Path, timesteps: Sequence[int]) -> UNet2DConditionModel:
    """Of the folder of a folded U-Net, with a time embedding again: see `folding.unfold`. Raises ReleaseInvalid."""
    tensors = quantization.dequantise(load_file(folder / WEIGHTS), torch.float32)
    return folding.unfold(read_config(folder), tensors, timesteps)


def decoder(folder: Path) -> AutoencoderTiny:
    """Of the folder of a decoder without its encoder, which is all zeros here."""
    vae = tiny_vae(read_config(folder))
    state = {name: torch.zeros_like(tensor) for name, tensor in vae.state_dict().items()}
    vae.load_state_dict({**state, **load_file(folder / WEIGHTS)})
    return vae.requires_grad_(False).eval()
