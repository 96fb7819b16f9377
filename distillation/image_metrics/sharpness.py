"""Sharpness of pictures without a network: mean gradient and variance of the Laplacian, of the luma in levels 0 … 255.

Both ignore the content: noise and blocks count as sharp, and the position of edges does not matter.
"""

import torch
from torch import Tensor
from torch.nn import functional

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def luma(images: Tensor) -> Tensor:
    """Return the luma in levels 0 … 255, fp32 [N, height, width]. images: RGB [N, 3, height, width], 0 … 255."""
    return (images.float() * torch.tensor(LUMA)[:, None, None]).sum(1)


def gradient(images: Tensor) -> Tensor:
    """Return the mean over a picture of √(gx² + gy²), in levels per pixel, fp32 [N]. images: RGB [N, 3, h, w].

    gx, gy: differences of the luma to the pixel on the right and to the one below; the last row and column have none.
    """
    values = luma(images)
    corner = values[:, :-1, :-1]
    across, down = values[:, :-1, 1:] - corner, values[:, 1:, :-1] - corner
    return (across.square() + down.square()).sqrt().flatten(1).mean(1)


def laplacian_variance(images: Tensor) -> Tensor:
    """Return the variance over a picture of the Laplacian, in squared levels, fp32 [N]. images: RGB [N, 3, h, w].

    The Laplacian is the sum of the luma of the four neighbours minus four times the pixel's; the edge has none.
    """
    values = luma(images)
    sides = values[:, :-2, 1:-1] + values[:, 2:, 1:-1] + values[:, 1:-1, :-2] + values[:, 1:-1, 2:]
    return (sides - 4 * values[:, 1:-1, 1:-1]).flatten(1).var(1, correction=0)


def squares(images: Tensor, side: int) -> Tensor:
    """Return the centre squares, scaled down to side × side pixels if they are larger, fp32 [N, 3, side, side].

    Raises ValueError if they are smaller: scaled up, a picture would look blurred.
    """
    height, width = images.shape[2:]
    short = min(height, width)
    if short < side:
        raise ValueError(f"A picture of {width} × {height} cannot be compared at {side} pixels.")
    top, left = (height - short) // 2, (width - short) // 2
    centre = images[:, :, top : top + short, left : left + short].float()
    if short == side:
        return centre
    return functional.interpolate(centre, (side, side), mode="bilinear", antialias=True)
