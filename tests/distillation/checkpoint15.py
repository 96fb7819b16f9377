"""A teacher with Stable Diffusion 1.5's layout and sizes and random weights."""

import gc
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig
from transformers.models.clip.modeling_clip import CLIPTextModel

from generation.engine import importing
from generation.engine.importing import Options
from tests.tiny import make_sd15_folder

UNET: dict[str, Any] = {"sample_size": 64, "cross_attention_dim": 768}  # else diffusers' defaults
VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "sample_size": 512,
}
TEXT: dict[str, Any] = {
    "vocab_size": 49_408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
}


def networks_of_sd15(toy: Mapping[str, Any]) -> dict[str, tuple[Any, str]]:
    """Return component → (network on the meta device, name of its file). toy: a text encoder's configuration."""
    with torch.device("meta"):
        return {
            "unet": (UNet2DConditionModel(**UNET), "diffusion_pytorch_model"),
            "vae": (AutoencoderKL(**VAE), "diffusion_pytorch_model"),
            "text_encoder": (CLIPTextModel(CLIPTextConfig(**{**toy, **TEXT})), "model"),
        }


def make_folder(target: Path) -> Path:
    """Write a diffusers folder with the layout of Stable Diffusion 1.5 in fp16, 2.1 GB, with a toy vocabulary."""
    make_sd15_folder(target, fp16=False)
    toy = json.loads((target / "text_encoder/config.json").read_text())
    for seed, (name, (network, file)) in enumerate(networks_of_sd15(toy).items()):
        for old in (target / name).iterdir():
            old.unlink()
        if name == "text_encoder":
            network.config.save_pretrained(target / name)
        else:
            network.save_config(target / name)
        shapes = {key: value.shape for key, value in network.state_dict().items()}
        save_file(
            random_weights(shapes, seed), target / name / f"{file}.safetensors", {"format": "pt"}
        )
        gc.collect()
    return target


def random_weights(shapes: Mapping[str, torch.Size], seed: int) -> dict[str, torch.Tensor]:
    """Return fp16 weights: ones for norms, zeros for biases, else normal ones that keep a layer's scale.

    Each layer's own initialisation would take a minute for so many.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes.items():
        if len(shape) > 1:
            deviation = shape[1:].numel() ** -0.5
            values = torch.randn(shape, generator=generator).mul_(deviation).half()
        elif name.endswith("weight"):
            values = torch.ones(shape, dtype=torch.float16)
        else:
            values = torch.zeros(shape, dtype=torch.float16)
        weights[name] = values
    return weights


def make_teacher(target: Path, *, is_toy: bool = False) -> None:
    """Write the release to the new folder. is_toy: with few channels, to test the rest in seconds."""
    with tempfile.TemporaryDirectory(prefix=".checkpoint-", dir=target.parent) as temporary:
        source = Path(temporary) / "sd15"
        (make_sd15_folder if is_toy else make_folder)(source)
        importing.import_folder(
            source, target, name="sd15-shape", options=Options(steps=50, guidance_scale=7.5)
        )
