"""The network that segments the object, its file format, and the bits derived from a mask.

A small U-Net (Ronneberger et al. 2015, arXiv 1505.04597), but with padded convolutions: the mask includes the border,
where it shows whether the object is cut off.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillation.detector.network import outputs, read_files, write_files

BITS = ("whole", "large")  # the object does not touch the border; it is as large as it should be
MIN_SHARE = 1e-4  # lower bound of a mask's area, as a share, so that its logarithm is finite


@dataclass(frozen=True)
class SegmentationConfig:
    """image_size: pixels of the images; a mask is `reduction` times smaller. widths: channels, per halving.

    rim, tolerance: pixels of the mask. An object is cut off if more than `tolerance` pixels of the outermost `rim`
    rows and columns belong to it. smallest: share of the image's area below which an object is too small.
    """

    image_size: int = 128
    reduction: int = 2
    widths: tuple[int, ...] = (8, 16, 32, 48)
    rim: int = 1
    tolerance: int = 2
    smallest: float = 0.08

    def __post_init__(self) -> None:
        if not self.widths or min(self.widths) < 1 or self.reduction < 1:
            raise ValueError(
                f"Widths {self.widths} and reduction {self.reduction} must be 1 or more."
            )
        if self.image_size % (self.reduction * 2 ** (len(self.widths) - 1)):
            raise ValueError(
                f"{self.image_size} pixels, {self.reduction} times smaller, cannot be halved "
                f"{len(self.widths) - 1} times."
            )
        if self.rim < 1 or self.tolerance < 0 or not 0 < self.smallest < 1:
            raise ValueError(
                "rim must be at least 1, tolerance at least 0, smallest between 0 and 1."
            )

    @property
    def mask_size(self) -> int:
        return self.image_size // self.reduction


class UNet(nn.Module):
    """Segmentation into background and object; with a temperature and a threshold for each of BITS."""

    temperatures: Tensor
    thresholds: Tensor

    def __init__(self, config: SegmentationConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.widths
        self.down = nn.ModuleList(
            _double(before, width) for before, width in zip((3, *widths), widths, strict=False)
        )
        self.up = nn.ModuleList(
            _double(wide + narrow, narrow)
            for wide, narrow in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.head = nn.Conv2d(widths[0], 2, 1)
        self.register_buffer("temperatures", torch.ones(len(BITS)))
        self.register_buffer("thresholds", torch.full((len(BITS),), 0.5))
        nn.utils.convert_conv2d_weight_memory_format(self, torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [N, 2, mask_size, mask_size]. images: float [N, 3, image_size, image_size], −1 to 1."""
        x = F.avg_pool2d(images, self.config.reduction)
        x = x.contiguous(memory_format=torch.channels_last)
        skipped = []
        for number, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if number else x)
            skipped.append(x)
        skipped.pop()
        for block in self.up:
            x = F.interpolate(x, scale_factor=2, mode="nearest")
            x = block(torch.cat([x, skipped.pop()], dim=1))
        return self.head(x)

    def mask_logits(self, images: Tensor) -> Tensor:
        """Return logits of object against background, float32 [N, mask_size, mask_size]; in evaluation mode."""
        logits = outputs(self, images, size=self.config.image_size)
        return logits[:, 1] - logits[:, 0]

    def bit_logits(self, images: Tensor) -> Tensor:
        """Return logits of BITS, not yet divided by the temperatures, float32 [N, 2]."""
        return bit_logits(self.mask_logits(images), self.config)

    def probabilities(self, images: Tensor) -> Tensor:
        """Return calibrated probabilities of BITS, float32 [N, 2]. images: uint8 [N, 3, image_size, image_size]."""
        return torch.sigmoid(self.bit_logits(images) / self.temperatures)


def bit_logits(mask_logits: Tensor, config: SegmentationConfig) -> Tensor:
    """Return logits of BITS, float32 [N, 2]. mask_logits: [N, H, W].

    whole: minus the (tolerance + 1)-th largest mask logit on the rim; large: log(the object's area ÷ the smallest).
    """
    on_rim = mask_logits[:, rim(config)]
    touching = on_rim.topk(config.tolerance + 1, dim=1).values[:, -1]
    share = torch.sigmoid(mask_logits).mean(dim=(1, 2)).clamp(min=MIN_SHARE)
    return torch.stack([-touching, torch.log(share / config.smallest)], dim=1).float()


def rim(config: SegmentationConfig) -> Tensor:
    """Return bool [mask_size, mask_size]: the outermost rows and columns."""
    edge = torch.ones(config.mask_size, config.mask_size, dtype=torch.bool)
    edge[config.rim : -config.rim, config.rim : -config.rim] = False
    return edge


def save(unet: UNet, folder: Path, *, dtype: torch.dtype = torch.float32) -> None:
    """Write config.json and model.safetensors into the folder; the weights in `dtype`."""
    write_files(unet, asdict(unet.config), Path(folder), dtype)


def load(folder: Path) -> UNet:
    """Load the network in evaluation mode, frozen. Raises DetectorUnusable."""
    return read_files(
        lambda fields: UNet(SegmentationConfig(**fields)), folder, name="segmentation"
    )


def _double(channels: int, out_channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before in (channels, out_channels):
        layers += [
            nn.Conv2d(before, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers)
