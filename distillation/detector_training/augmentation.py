"""Augmentation of batches of photographs, so that the detector does not depend on a camera or a file format.

No augmentation changes the hue, because colours are labels.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

# Quantisation steps of 8 × 8 DCT coefficients at JPEG quality 50 (ITU-T T.81, annex K), smoothed along diagonals.
LUMA_STEP = (16.0, 11.0)  # of the mean; increase per diagonal
CHROMA_STEP = (17.0, 16.0)
YCC_OF_RGB = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


@dataclass(frozen=True)
class Augmentation:
    """Each field is the largest amount of a change, or the share of images or batches that are changed."""

    is_mirrored: bool = True
    moved: float = 0.7  # share of images that are shifted and zoomed
    shift: float = 0.08  # of the image's side, each way
    zoom: float = 0.15  # ± share
    brightness: float = 0.12  # ± of the range −1 … 1
    contrast: float = 0.15  # ± share
    noise: float = 0.05  # standard deviation, in the range −1 … 1
    blurred: float = 0.4  # share of images that are scaled down and up again
    smallest: float = 0.45  # the lowest scale of those
    blocked: float = 0.3  # share of images that lose detail as in a JPEG file
    coarseness: float = (
        1.5  # the coarsest quantisation of those, as a multiple of JPEG's at quality 50
    )

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        """Return augmented copies in the same format. images: float [N, 3, H, W], −1 to 1."""
        images = self._move(images, generator)
        images = self._degrade(images, generator)
        return self._light(images, generator).clamp_(-1, 1)

    def _move(self, images: Tensor, generator: Generator) -> Tensor:
        count = len(images)
        if self.is_mirrored:
            mirrored = torch.rand(count, 1, 1, 1, generator=generator) < 0.5
            images = torch.where(mirrored, images.flip(-1), images)
        chosen = (torch.rand(count, generator=generator) < self.moved).nonzero()[:, 0]
        draws = torch.rand(count, 3, generator=generator)[chosen] * 2 - 1
        if not len(chosen):
            return images
        theta = torch.zeros(len(chosen), 2, 3)
        theta[:, 0, 0] = theta[:, 1, 1] = 1 + self.zoom * draws[:, 0]
        theta[:, :, 2] = 2 * self.shift * draws[:, 1:]  # the grid spans −1 … 1
        grid = F.affine_grid(theta, [len(chosen), *images.shape[1:]], align_corners=False)
        moved = F.grid_sample(images[chosen], grid, padding_mode="reflection", align_corners=False)
        return images.index_copy(0, chosen, moved)

    def _degrade(self, images: Tensor, generator: Generator) -> Tensor:
        """Soften, then quantise blocks: as a decoder or a file loses detail."""
        draws = torch.rand(2, len(images), generator=generator)
        scale, coarse = torch.rand(
            2, generator=generator
        ).tolist()  # one size and one table a batch
        size = images.shape[-1]
        if len(chosen := (draws[0] < self.blurred).nonzero()[:, 0]):
            small = max(1, round(size * (self.smallest + (1 - self.smallest) * scale)))
            scaled = F.interpolate(images[chosen], size=small, mode="bilinear", antialias=True)
            scaled = F.interpolate(
                scaled, size=images.shape[-2:], mode="bicubic", align_corners=False
            )
            images = images.index_copy(0, chosen, scaled)
        if len(chosen := (draws[1] < self.blocked).nonzero()[:, 0]):
            blocked = quantise_blocks(images[chosen], self.coarseness * (0.1 + 0.9 * coarse))
            images = images.index_copy(0, chosen, blocked)
        return images

    def _light(self, images: Tensor, generator: Generator) -> Tensor:
        shape = (len(images), 1, 1, 1)
        draws = [torch.rand(shape, generator=generator) for _ in range(3)]
        mean = images.mean(dim=(1, 2, 3), keepdim=True)
        gain = 1 + self.contrast * (2 * draws[0] - 1)
        lift = self.brightness * (2 * draws[1] - 1)
        images = (images - mean) * gain + (mean + lift)
        if self.noise:
            noise = torch.randn(images.shape, generator=generator)
            images = images.addcmul_(noise, self.noise * draws[2])
        return images


def quantise_blocks(images: Tensor, coarseness: float) -> Tensor:
    """Return images with JPEG's loss: DCT coefficients of 8 × 8 blocks rounded to steps that grow with frequency.

    images: float [N, 3, H, W], −1 to 1; H and W multiples of 8. coarseness: factor of the steps; 1 ≈ quality 50.
    """
    count, _, height, width = images.shape
    if height % 8 or width % 8:
        raise ValueError(f"Images of {width}×{height} are not whole blocks of 8×8.")
    index = torch.arange(8.0)
    cosine = torch.cos(math.pi / 8 * (index[None, :] + 0.5) * index[:, None]) / 2
    cosine[0] /= math.sqrt(2)  # now orthonormal: its transpose is its inverse
    diagonal = index[:, None] + index[None, :]
    steps = torch.stack(
        [first + more * diagonal for first, more in (LUMA_STEP, CHROMA_STEP, CHROMA_STEP)]
    )
    steps = (steps * (coarseness / 127.5)).view(3, 1, 1, 8, 8)
    ycc_of_rgb = torch.tensor(YCC_OF_RGB)
    ycc = torch.einsum("dc,nchw->ndhw", ycc_of_rgb, images)
    blocks = ycc.reshape(count, 3, height // 8, 8, width // 8, 8).transpose(3, 4)
    coefficients = cosine @ blocks @ cosine.T
    blocks = cosine.T @ ((coefficients / steps).round() * steps) @ cosine
    ycc = blocks.transpose(3, 4).reshape(count, 3, height, width)
    return torch.einsum("dc,nchw->ndhw", torch.linalg.inv(ycc_of_rgb), ycc)
