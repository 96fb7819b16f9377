"""Quantisation of weights to int8 with one fp32 scale per output channel; other tensors to fp16.

A weight NAME is stored as NAME (int8, same shape) and NAME.scale (fp32 [out]): w ≈ scale · stored, symmetric, so that
zero stays zero. It is dequantised on loading: arithmetic is in the device's dtype.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from generation.engine.errors import ReleaseInvalid

LEVELS = 127  # −127 … 127
SCALE = ".scale"
FP16_MAX = torch.finfo(torch.float16).max


def covers(name: str, tensor: Tensor) -> bool:
    """Return whether it is stored as int8: weights of convolutions [out, in, h, w] and linear layers [out, in]."""
    return name.endswith(".weight") and tensor.ndim in (2, 4)


def scales(weight: Tensor) -> Tensor:
    """Return fp32 [out]: max |w| ÷ 127 per output channel, 1 for an all-zero channel. weight: [out, …]."""
    largest = weight.detach().float().abs().flatten(1).amax(dim=1)
    return torch.where(largest > 0, largest / LEVELS, torch.ones_like(largest))


def rounded(weight: Tensor, scale: Tensor) -> Tensor:
    """Return the weight rounded to the nearest levels, int8, same shape. scale: fp32 [out]."""
    levels = (weight.detach().float() / _along(scale, weight)).round()
    return levels.clamp(-LEVELS, LEVELS).to(torch.int8)


def multiplied_out(stored: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the weight in `dtype`; the product is computed in fp32."""
    return (stored.float() * _along(scale, stored)).to(dtype)


def quantise(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the stored form of named tensors. Raises ReleaseInvalid for values outside the range of fp16."""
    stored: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        require_fp16(name, tensor)
        if covers(name, tensor):
            scale = scales(tensor)
            stored[name] = rounded(tensor, scale)
            stored[name + SCALE] = scale
        else:
            stored[name] = tensor.detach().to(torch.float16)
    return stored


def dequantise(stored: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the network's tensors in `dtype`, by name. Raises ReleaseInvalid if a scale is missing."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in stored.items():
        if name.endswith(SCALE):
            continue
        if tensor.dtype == torch.int8:
            if name + SCALE not in stored:
                raise ReleaseInvalid(f"The int8 weight {name} has no {name + SCALE}.")
            tensors[name] = multiplied_out(tensor, stored[name + SCALE], dtype)
        else:
            tensors[name] = tensor.to(dtype)
    return tensors


def require_fp16(name: str, tensor: Tensor) -> None:
    """Raise ReleaseInvalid if a value is NaN or outside the range of fp16."""
    largest = tensor.detach().abs().max() if tensor.numel() else torch.zeros(())
    if not bool(largest <= FP16_MAX):  # `not <=` is also true for NaN
        raise ReleaseInvalid(
            f"{name} has a value outside the range of fp16 ({float(largest):g}). The training diverged: "
            "use an earlier checkpoint."
        )


def _along(scale: Tensor, weight: Tensor) -> Tensor:
    return scale.view(-1, *[1] * (weight.ndim - 1))
