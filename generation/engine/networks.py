"""Loading of a release's networks onto a device, by the class in their config.json."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors import safe_open
from torch import Tensor, nn

from generation.engine import classes, quantization
from generation.engine.classes import FOLDED_UNET, SHUFFLED_VAE, TINY_VAE
from generation.engine.device import Device
from generation.engine.student import FoldedUNet

WEIGHTS = "diffusion_pytorch_model.safetensors"


def load_unet(folder: Path, device: Device) -> UNet2DConditionModel | FoldedUNet:
    """Load a frozen U-Net in the device's dtype.

    Raises OSError, ValueError, RuntimeError, SafetensorError and ReleaseInvalid.
    """
    config = read_config(folder)
    if config["_class_name"] != FOLDED_UNET:
        return placed(load_stock(UNet2DConditionModel, folder, device.dtype), device)
    tensors = read_quantised(folder / WEIGHTS, device)
    return FoldedUNet(config, tensors).requires_grad_(False).eval()


def load_vae(folder: Path, device: Device) -> AutoencoderKL | AutoencoderTiny:
    """Load a frozen VAE. Raises the same as `load_unet`."""
    config = read_config(folder)
    if config["_class_name"] not in (TINY_VAE, SHUFFLED_VAE):
        return placed(load_stock(AutoencoderKL, folder, _vae_dtype(device, config)), device)
    with torch.device("meta"):
        vae = tiny_vae(config)
    vae.encoder = nn.Identity()  # not needed for generation
    vae.load_state_dict(read_quantised(folder / WEIGHTS, device), assign=True)
    return placed(vae, device)


def tiny_vae(config: Mapping[str, Any]) -> AutoencoderTiny:
    """Return an untrained network. Drop the field `block_out_channels`, about which diffusers would warn."""
    return classes.make(AutoencoderTiny, config)


def read_config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text("utf-8"))


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file; create its folder if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")


def read_quantised(path: Path, device: Device) -> dict[str, Tensor]:
    """Return tensors stored by `quantization.quantise`, dequantised one by one to limit the memory peak."""
    tensors: dict[str, Tensor] = {}
    with safe_open(path, framework="pt", device=str(device.place)) as stored:
        names = set(stored.keys())
        for name in sorted(names):
            scale = name + quantization.SCALE
            if scale in names:
                tensors[name] = quantization.multiplied_out(
                    stored.get_tensor(name), stored.get_tensor(scale), device.dtype
                )
            elif not name.endswith(quantization.SCALE):
                tensor = stored.get_tensor(name)
                if not tensor.is_floating_point():
                    raise ValueError(f"the int8 weight {name} has no {scale}")
                tensors[name] = tensor.to(device.dtype)
    return tensors


def load_stock(kind: Any, folder: Path, dtype: torch.dtype) -> Any:
    """Load a diffusers network, frozen, in evaluation mode, on the CPU. Raises OSError, ValueError, RuntimeError.

    `from_pretrained` is not thread-safe: while it builds a network it patches `nn.Module` and the default dtype for all
    threads, so that modules of other threads get the meta device or a wrong dtype.
    """
    with torch.device("meta"):  # affects this thread only
        network = kind.from_config(read_config(folder))
    tensors: dict[str, Tensor] = {}
    for path in _weight_files(folder):
        with safe_open(path, framework="pt") as stored:
            for name in stored.keys():  # noqa: SIM118 (not a mapping)
                tensors[name] = stored.get_tensor(name).to(dtype)
    network._fix_state_dict_keys_on_load(tensors)  # names in old files
    missing, _ = network.load_state_dict(tensors, strict=False, assign=True)
    if missing:  # otherwise they would have no values
        raise ValueError(f"the weights of {folder.name} lack {', '.join(sorted(missing)[:3])}")
    return network.requires_grad_(False).eval()


def _weight_files(folder: Path) -> list[Path]:
    """Return the weight file, or the shards listed in an index."""
    index = folder / f"{WEIGHTS}.index.json"
    if not index.is_file():
        return [folder / WEIGHTS]
    return [
        folder / name
        for name in sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
    ]


def placed(network: Any, device: Device) -> Any:
    """Return the network on the device, frozen, in evaluation mode, in the layout that its convolutions read."""
    network.requires_grad_(False).eval()
    # channels_last: the layout that convolutions on CPUs and tensor cores read directly.
    layout = torch.preserve_format if device.place.type == "mps" else torch.channels_last
    return network.to(device.place).to(memory_format=layout)


def _vae_dtype(device: Device, config: dict[str, Any]) -> torch.dtype:
    """Return the VAE's dtype. With force_upcast it would overflow in fp16 (above 65,504); bf16 has fp32's range."""
    if device.dtype == torch.float16 and config.get("force_upcast", True):
        return torch.float32
    return device.dtype
