"""Weights as int8 with one fp32 scale per output channel, everything else as fp16. Knows no network and no file.

A weight NAME is stored as NAME (int8, its own shape) and NAME.scale (fp32 [out]): w ≈ scale · stored, symmetric, so
that zero stays zero. It is multiplied out while it is loaded: arithmetic is that of the device's dtype, at full speed.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from generation.engine.errors import ReleaseInvalid

LEVELS = 127  # −127 … 127
SCALE = ".scale"
FP16_MAX = torch.finfo(torch.float16).max


def covers(name: str, tensor: Tensor) -> bool:
    """Whether this tensor is stored as int8: weights of convolutions [out, in, h, w] and of linear layers [out, in]."""
    return name.endswith(".weight") and tensor.ndim in (2, 4)


def scales(weight: Tensor) -> Tensor:
    """fp32 [out]: max |w| ÷ 127 of each output channel; 1 where all weights are zero. weight: [out, …]."""
    largest = weight.detach().float().abs().flatten(1).amax(dim=1)
    return torch.where(largest > 0, largest / LEVELS, torch.ones_like(largest))


def rounded(weight: Tensor, scale: Tensor) -> Tensor:
    """int8, the shape of the weight: the nearest levels. scale: fp32 [out]."""
    levels = (weight.detach().float() / _along(scale, weight)).round()
    return levels.clamp(-LEVELS, LEVELS).to(torch.int8)


def multiplied_out(stored: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """The weight in `dtype`; the product is made in fp32."""
    return (stored.float() * _along(scale, stored)).to(dtype)


def quantise(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What is stored of a network's tensors. Raises ReleaseInvalid for values that fp16 cannot hold, by name."""
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
    """The network's tensors in `dtype`, under their own names. Raises ReleaseInvalid if a scale is missing."""
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
    """Raises ReleaseInvalid if a value is no number or beyond what fp16 holds."""
    largest = tensor.detach().abs().max() if tensor.numel() else torch.zeros(())
    if not bool(largest <= FP16_MAX):  # so written, it refuses NaN as well
        raise ReleaseInvalid(
            f"{name} holds a value that fp16 cannot hold ({float(largest):g}). The network diverged while it was "
            "trained: use an earlier checkpoint."
        )


def _along(scale: Tensor, weight: Tensor) -> Tensor:
    return scale.view(-1, *[1] * (weight.ndim - 1))
