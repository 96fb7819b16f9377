"""Degradation of good pictures into unusable ones: blurred, noisy, blocky, blank, garbage.

They are the training data of the bits `sharp` and `clean`. Amounts between good and spoilt get no label: people would
not agree on one either.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from distillation.detector.labels import UNKNOWN
from distillation.detector_training.augmentation import quantise_blocks

BITS = ("sharp", "clean")  # against blur; against noise, blocks, blank and garbage


@dataclass(frozen=True)
class Spoiling:
    """Range of each degradation: the least amount that spoils a picture, the largest. Sizes are shares of the side."""

    blur: tuple[float, float] = (0.018, 0.06)  # standard deviation
    scale: tuple[float, float] = (0.21, 0.08)  # scaled down to this and up again
    motion: tuple[float, float] = (0.1, 0.25)  # length of the path
    noise: tuple[float, float] = (0.18, 0.8)  # standard deviation, in the range −1 … 1
    salt: tuple[float, float] = (0.02, 0.3)  # share of pixels that are black or white
    coarseness: tuple[float, float] = (6.0, 20.0)  # as in `quantise_blocks`
    contrast: tuple[float, float] = (
        0.12,
        0.0,
    )  # remaining contrast of a nearly blank picture

    def __call__(self, images: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        """Return each image spoilt in a random way, and its BITS: 0, 1 or UNKNOWN, float [N, 2].

        images: float [N, 3, H, W], −1 to 1.
        """
        ways = torch.randint(len(WAYS), (len(images),), generator=generator)
        spoilt, bits = images.clone(), torch.empty(len(images), len(BITS))
        for number, name in enumerate(WAYS):
            chosen = (ways == number).nonzero()[:, 0]
            if len(chosen):
                spoilt[chosen], bits[chosen] = self.spoil(name, images[chosen], generator)
        return spoilt, bits

    def spoil(self, way: str, images: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        """Return the images spoilt in the given one of WAYS, each by a random amount, and their BITS, float [N, 2]."""
        make, bits = WAYS[way]
        spoilt = torch.stack([make(self, image, generator) for image in images])
        return spoilt.clamp_(-1, 1), torch.tensor(bits).expand(len(images), -1)


# --- the ways: image [3, H, W] to image -----------------------------------------------------------
def _blurred(spoiling: Spoiling, image: Tensor, generator: Generator) -> Tensor:
    sigma = _amount(spoiling.blur, generator) * image.shape[-1]
    reach = math.ceil(3 * sigma)
    kernel = torch.exp(-torch.arange(-reach, reach + 1.0).square() / (2 * sigma**2))
    return _convolved(_convolved(image, kernel[None, :]), kernel[:, None])


def _rescaled(spoiling: Spoiling, image: Tensor, generator: Generator) -> Tensor:
    small = max(2, round(_amount(spoiling.scale, generator) * image.shape[-1]))
    mode = ("bilinear", "bicubic", "nearest")[_whole(3, generator)]
    scaled = F.interpolate(image[None], size=small, mode="bilinear", antialias=True)
    corners = None if mode == "nearest" else False
    return F.interpolate(scaled, size=image.shape[1:], mode=mode, align_corners=corners)[0]


def _moved(spoiling: Spoiling, image: Tensor, generator: Generator) -> Tensor:
    """Return the image with motion blur along a random straight line."""
    reach = max(1, math.ceil(_amount(spoiling.motion, generator) * image.shape[-1] / 2))
    angle = _share(generator) * math.pi
    along = torch.linspace(-reach, reach, 4 * reach + 1)
    rows = (reach + along * math.sin(angle)).round().long()
    columns = (reach + along * math.cos(angle)).round().long()
    kernel = torch.zeros(2 * reach + 1, 2 * reach + 1)
    kernel[rows, columns] = 1
    return _convolved(image, kernel)


def _noisy(spoiling: Spoiling, image: Tensor, generator: Generator) -> Tensor:
    """Return the image with noise per pixel, or per block of 2 × 2 or 3 × 3; in colour or in grey."""
    lump, height, width = 1 + _whole(3, generator), *image.shape[1:]
    channels = 1 if _share(generator) < 0.3 else 3
    noise = torch.randn(channels, -(-height // lump), -(-width // lump), generator=generator)
    noise = noise.repeat_interleave(lump, 1).repeat_interleave(lump, 2)[:, :height, :width]
    return image + _amount(spoiling.noise, generator) * noise


def _salted(spoiling: Spoiling, image: Tensor, generator: Generator) -> Tensor:
    share = _amount(spoiling.salt, generator)
    draws = torch.rand(image.shape[1:], generator=generator)
    return image.masked_fill(draws < share / 2, -1.0).masked_fill(draws > 1 - share / 2, 1.0)


def _blocked(spoiling: Spoiling, image: Tensor, generator: Generator) -> Tensor:
    height, width = (side // 8 * 8 for side in image.shape[1:])
    blocked = image.clone()
    blocked[:, :height, :width] = quantise_blocks(
        image[None, :, :height, :width], _amount(spoiling.coarseness, generator)
    )[0]
    return blocked


def _blank(spoiling: Spoiling, image: Tensor, generator: Generator) -> Tensor:
    """Return one colour, a gradient between two, the image almost without contrast, or plain black or white."""
    colour = torch.rand(3, 1, 1, generator=generator) * 2 - 1
    match _whole(4, generator):
        case 0:
            blank = colour.expand_as(image)
        case 1:
            other = torch.rand(3, 1, 1, generator=generator) * 2 - 1
            slope = torch.linspace(0, 1, image.shape[-1]).expand(image.shape[1:])
            slope = slope if _share(generator) < 0.5 else slope.T
            blank = colour + (other - colour) * slope
        case 2:
            blank = colour + (image - image.mean()) * _amount(spoiling.contrast, generator)
        case _:
            grey = colour.mean().sign() * (0.9 + 0.1 * _share(generator))  # black, or white
            blank = grey.expand_as(image)
    return blank + 0.02 * _share(generator) * torch.randn(image.shape, generator=generator)


def _garbage(spoiling: Spoiling, image: Tensor, generator: Generator) -> Tensor:
    """Return noise, stripes, shuffled tiles, or randomly shifted rows, as of a damaged file."""
    side = image.shape[-1]
    match _whole(4, generator):
        case 0:
            size = 2 ** (2 + _whole(5, generator))
            return F.interpolate(
                torch.rand(1, 3, size, size, generator=generator) * 2 - 1, size=image.shape[1:]
            )[0]
        case 1:
            stripes = torch.rand(3, 4 + _whole(side // 4, generator), 1, generator=generator)
            stripes = F.interpolate(stripes[None] * 2 - 1, size=image.shape[1:])[0]
            return stripes if _share(generator) < 0.5 else stripes.mT
        case 2:
            tiles = (4, 8)[_whole(2, generator)]
            edge = side // tiles
            parts = image[:, : edge * tiles, : edge * tiles]
            parts = parts.unfold(1, edge, edge).unfold(2, edge, edge).flatten(1, 2)
            parts = parts[:, torch.randperm(tiles * tiles, generator=generator)]
            parts = parts.unflatten(1, (tiles, tiles)).permute(0, 1, 3, 2, 4)
            tiled = parts.reshape(3, edge * tiles, edge * tiles)
            return F.interpolate(tiled[None], size=image.shape[1:])[0]
        case _:
            slips = torch.randint(side, (side,), generator=generator)
            columns = (torch.arange(side)[None, :] + slips[:, None]) % side
            return image.gather(2, columns.expand(3, -1, -1))


Way = Callable[[Spoiling, Tensor, Generator], Tensor]
# (sharp, clean). Noise hides whether the picture below is sharp, hence UNKNOWN.
WAYS: dict[str, tuple[Way, tuple[float, float]]] = {
    "blurred": (_blurred, (0.0, 1.0)),
    "rescaled": (_rescaled, (0.0, UNKNOWN)),
    "moved": (_moved, (0.0, 1.0)),
    "noisy": (_noisy, (UNKNOWN, 0.0)),
    "salted": (_salted, (UNKNOWN, 0.0)),
    "blocked": (_blocked, (UNKNOWN, 0.0)),
    "blank": (_blank, (0.0, 0.0)),
    "garbage": (_garbage, (UNKNOWN, 0.0)),
}


def _convolved(image: Tensor, kernel: Tensor) -> Tensor:
    """Return the image convolved with replicated borders. kernel: [h, w] of odd sides; it is normalised to sum 1."""
    top, left = kernel.shape[0] // 2, kernel.shape[1] // 2
    padded = F.pad(image[None], (left, left, top, top), mode="replicate")
    weight = (kernel / kernel.sum()).expand(3, 1, *kernel.shape)
    return F.conv2d(padded, weight, groups=3)[0]


def _amount(ends: tuple[float, float], generator: Generator) -> float:
    """Return a random amount between the ends, more often near the first, which is harder to see."""
    return ends[0] + (ends[1] - ends[0]) * _share(generator) ** 2


def _share(generator: Generator) -> float:
    return float(torch.rand((), generator=generator))


def _whole(count: int, generator: Generator) -> int:
    return int(torch.randint(count, (), generator=generator))
