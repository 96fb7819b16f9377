"""The detector's network and its file format: images to one calibrated probability per bit."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from distillation.detector.errors import DetectorUnusable
from distillation.resumable import atomic

__all__ = ["Detector", "DetectorConfig", "DetectorUnusable", "as_float", "load", "save"]

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
FORMAT_VERSION = 1
Network = TypeVar("Network", bound=nn.Module)
BATCH = 64  # images judged at once: larger gains nothing on a CPU


@dataclass(frozen=True)
class DetectorConfig:
    """bits: names, in order; groups: sizes of the groups of mutually exclusive bits; widths: channels per stage.

    The network has one sigmoid per bit; the groups matter only for the interpretation of its output.
    """

    bits: tuple[str, ...]
    groups: tuple[int, ...]
    image_size: int = 128
    widths: tuple[int, ...] = (32, 64, 128, 192)
    depths: tuple[int, ...] = (0, 1, 1, 2)  # residual blocks of each stage

    def __post_init__(self) -> None:
        if not self.bits or len(set(self.bits)) != len(self.bits):
            raise ValueError(f"The bits must be distinct names, at least one; not {self.bits}.")
        if sum(self.groups) != len(self.bits) or min(self.groups, default=0) < 1:
            raise ValueError(f"The groups {self.groups} do not add up to {len(self.bits)} bits.")
        if not self.widths or min(self.widths) < 1 or len(self.depths) != len(self.widths):
            raise ValueError(f"Give one depth per width, not {self.depths} for {self.widths}.")
        # The first block of a stage halves the image, so a stage after the stem cannot be empty.
        if self.depths[0] < 0 or min(self.depths[1:], default=1) < 1:
            raise ValueError(f"Stages after the first need a block or more, not {self.depths}.")
        if self.image_size < 2 ** len(self.widths):
            raise ValueError(
                f"{self.image_size} pixels are too few for {len(self.widths)} halvings."
            )


class Block(nn.Module):
    """Two convolutions with a shortcut (He et al. 2015, arXiv 1512.03385)."""

    def __init__(self, channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out_channels, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        # Averaging before the 1×1 projection keeps what a strided one would discard (arXiv 1812.01187).
        self.shortcut = (
            nn.Identity()
            if stride == 1 and channels == out_channels
            else nn.Sequential(
                nn.AvgPool2d(stride) if stride > 1 else nn.Identity(),
                nn.Conv2d(channels, out_channels, 1, bias=False),
                nn.BatchNorm2d(out_channels),
            )
        )
        nn.init.zeros_(self.norm2.weight)  # starts as the shortcut alone

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class Detector(nn.Module):
    """One sigmoid per bit, with a temperature and a threshold for each; without calibration they are 1 and ½."""

    temperatures: Tensor
    thresholds: Tensor

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self.config = config
        first = config.widths[0]
        self.stem = nn.Sequential(
            nn.Conv2d(3, first, 5, 2, 2, bias=False), nn.BatchNorm2d(first), nn.ReLU()
        )
        blocks: list[nn.Module] = []
        channels = first
        for stage, (width, depth) in enumerate(zip(config.widths, config.depths, strict=True)):
            for index in range(depth):
                blocks.append(Block(channels, width, 2 if stage and not index else 1))
                channels = width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(channels, len(config.bits))
        self.register_buffer("temperatures", torch.ones(len(config.bits)))
        self.register_buffer("thresholds", torch.full((len(config.bits),), 0.5))
        nn.utils.convert_conv2d_weight_memory_format(self, torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [N, bits], not yet divided by the temperatures. images: float [N, 3, size, size], −1 to 1."""
        features = self.blocks(self.stem(images.contiguous(memory_format=torch.channels_last)))
        return self.head(features.mean(dim=(2, 3)))

    def logits(self, images: Tensor) -> Tensor:
        """Return the logits in evaluation mode, float32 [N, bits]. images: uint8 [N, 3, size, size]."""
        return outputs(self, images, size=self.config.image_size)

    def probabilities(self, images: Tensor) -> Tensor:
        """Return calibrated probabilities, float32 [N, bits]. images: uint8 [N, 3, size, size]."""
        return torch.sigmoid(self.logits(images) / self.temperatures)


@torch.inference_mode()
def outputs(network: nn.Module, images: Tensor, *, size: int) -> Tensor:
    """Return the outputs in evaluation mode, float32 [N, …]. images: uint8 [N, 3, size, size]. Raises ValueError."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1:] != (3, size, size):
        raise ValueError(
            f"The detector judges uint8 images [N, 3, {size}, {size}], not"
            f" {images.dtype} {list(images.shape)}. Scale them first."
        )
    was_training = network.training
    network.eval()
    try:
        return torch.cat([network(as_float(batch)).float() for batch in images.split(BATCH)])
    finally:
        network.train(was_training)


def resized(images: Tensor, size: int) -> Tensor:
    """Return the images at size × size pixels, uint8 [N, 3, size, size]. images: uint8 [N, 3, height, width]."""
    if images.shape[-2:] == (size, size):
        return images
    scaled = F.interpolate(
        images.float(), (size, size), mode="bilinear", antialias=True, align_corners=False
    )
    return scaled.round().clamp(0, 255).to(torch.uint8)


def as_float(images: Tensor) -> Tensor:
    """Convert uint8 0 … 255 to float32 −1 … 1."""
    return images.float().div_(127.5).sub_(1)


def save(detector: Detector, folder: Path, *, dtype: torch.dtype = torch.float32) -> None:
    """Write config.json and model.safetensors (weights in `dtype`, temperatures, thresholds) into the folder."""
    write_files(detector, asdict(detector.config), Path(folder), dtype)


def write_files(
    network: nn.Module, config: dict[str, Any], folder: Path, dtype: torch.dtype
) -> None:
    """Write a network's folder: kernels and matrices in `dtype`, other tensors unchanged."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: (
            value.to(dtype) if value.is_floating_point() and value.ndim > 1 else value
        ).contiguous()
        for name, value in network.state_dict().items()
    }
    atomic.write_file(folder / WEIGHTS, save_tensors(tensors))
    fields = {"format_version": FORMAT_VERSION, **config}
    atomic.write_file(folder / CONFIG, json.dumps(fields, indent=2) + "\n")


def load(folder: Path) -> Detector:
    """Load the detector in evaluation mode, frozen. Raises DetectorUnusable."""
    return read_files(lambda fields: Detector(DetectorConfig(**fields)), folder, name="detector")


def read_files(make: Callable[[dict[str, Any]], Network], folder: Path, *, name: str) -> Network:
    """Load what `write_files` wrote, in evaluation mode, frozen. Raises DetectorUnusable.

    make: builds the network from the fields of the config, with tuples for lists. name: for the error message.
    """
    folder = Path(folder)
    try:
        fields = json.loads((folder / CONFIG).read_text("utf-8"))
        if (version := fields.pop("format_version", None)) != FORMAT_VERSION:
            raise ValueError(f"format version {version} is not {FORMAT_VERSION}")
        network = make({k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})
        # strict: a missing tensor would stay random
        network.load_state_dict(load_tensors((folder / WEIGHTS).read_bytes()))
    except (OSError, ValueError, TypeError, RuntimeError, AttributeError, SafetensorError) as error:
        raise DetectorUnusable(
            f"{folder} holds no usable {name}: {error}. Train it again, or copy {CONFIG} and {WEIGHTS} again."
        ) from error
    return network.requires_grad_(False).eval()
