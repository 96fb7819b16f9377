"""Pixel-wise softmax cross-entropy, and the weights that keep borders of objects sharp.

Ronneberger et al., U-Net, arXiv 1505.04597. Distances are in pixels, between the centres of pixels.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from distillation.losses.precision import require_one_shape, weighted_mean, wide


def pixel_cross_entropy(
    logits: Tensor, classes: Tensor, *, weights: Tensor | None = None
) -> Tensor:
    """Return mean_x w(x) · (−log p_c(x)(x)), p the softmax over classes: U-Net's eq. 1 with mean instead of sum.

    logits [B, K, H, W]; classes int64 [B, H, W], each in 0 … K − 1; weights [B, H, W], `weight_map`; None is 1.
    """
    if logits.ndim != 4 or classes.shape != logits.shape[:1] + logits.shape[2:]:
        raise ValueError(
            f"Logits [B, K, H, W] come with classes [B, H, W], not {list(logits.shape)} with {list(classes.shape)}."
        )
    losses = functional.cross_entropy(wide(logits), classes, reduction="none")
    return weighted_mean(losses, weights)


def weight_map(
    classes: Tensor, objects: Tensor, *, class_weights: Tensor, border_weight: float, sigma: float
) -> Tensor:
    """Return w = w_c + w₀ exp(−(d₁ + d₂)² ÷ 2σ²), fp32 [B, H, W] (U-Net, eq. 2; there w₀ = 10, σ = 5 pixels).

    classes: int [B, H, W]; objects: int [B, H, W], 0 = background, and one number per object of an image.
    class_weights: w_c [K], `class_balance`. border_weight, sigma: as `border_weights`.
    """
    require_one_shape(classes, objects)
    if int(classes.min()) < 0 or int(classes.max()) >= len(class_weights):
        raise ValueError(f"The classes must be in 0 … {len(class_weights) - 1}.")
    balance = class_weights.detach().to(classes.device).float()[classes.long()]
    return balance + border_weights(objects, border_weight=border_weight, sigma=sigma)


def class_balance(classes: Tensor) -> Tensor:
    """Return w_c, fp32 [2]: pixels ÷ (classes present × pixels of the class), so that the mean over pixels is 1.

    classes: int [B, H, W], 0 = background, 1 = object, of the whole training set or a large part. A class that is
    absent gets 0.
    """
    if not classes.numel() or int(classes.min()) < 0 or int(classes.max()) > 1:
        raise ValueError("The classes must be 0 or 1, and there must be some.")
    pixels = torch.bincount(classes.flatten().long(), minlength=2)
    present = int((pixels > 0).sum())
    balance = classes.numel() / (present * pixels.clamp(min=1))
    return torch.where(pixels > 0, balance, 0.0).float()


def border_weights(objects: Tensor, *, border_weight: float, sigma: float) -> Tensor:
    """Return w₀ exp(−(d₁ + d₂)² ÷ 2σ²), fp32 [B, H, W]: large on background between two objects that nearly touch.

    d₁, d₂: distances to the nearest and to the second nearest object. 0 on objects, and in images of fewer than two.
    objects: int [B, H, W], 0 = background, and one number per object. border_weight: w₀; sigma: σ, pixels.
    Touching objects have no background between them: leave a pixel free if they must be separated.
    """
    if objects.ndim != 3 or objects.is_floating_point():
        raise ValueError(
            f"Objects are whole numbers [B, H, W], not {objects.dtype} {list(objects.shape)}."
        )
    if not 0 <= border_weight < math.inf or not 0 < sigma < math.inf:
        raise ValueError(
            f"border_weight ({border_weight}) must not be negative, sigma ({sigma}) must be positive."
        )
    if (objects < 0).any():
        raise ValueError(
            "Objects are numbered from 1, and 0 is the background; there is a negative number."
        )
    maps = []
    for image in objects:
        first = second = torch.full(image.shape, math.inf, device=image.device)
        for number in image.unique().tolist():
            if number:
                distance = distances(image == number)
                second = torch.minimum(second, torch.maximum(first, distance))
                first = torch.minimum(first, distance)
        near = border_weight * torch.exp(-(first + second).square() / (2 * sigma**2))
        maps.append(torch.where(image == 0, near, 0.0))
    return torch.stack(maps)


def distances(mask: Tensor) -> Tensor:
    """Return each pixel's exact Euclidean distance to the nearest one of the mask, fp32 [H, W]; inf if there is none.

    mask: bool [H, W]. First along columns, then along rows (Felzenszwalb & Huttenlocher, Theory of Computing 8, 2012,
    with the second pass by comparison of all columns: W² values at a time).
    """
    if mask.ndim != 2 or mask.dtype != torch.bool:
        raise ValueError(f"A mask is bool [H, W], not {mask.dtype} {list(mask.shape)}.")
    height, width = mask.shape
    rows = torch.arange(height, device=mask.device, dtype=torch.float32)[:, None]
    columns = torch.arange(width, device=mask.device, dtype=torch.float32)
    above = torch.where(mask, rows, -math.inf).cummax(0).values
    below = torch.where(mask, rows, math.inf).flip(0).cummin(0).values.flip(0)
    vertical = torch.minimum(rows - above, below - rows).square()
    across = (columns[:, None] - columns).square()
    return torch.stack([(across + line).amin(1) for line in vertical]).sqrt()
