"""Precision in which losses are computed, whatever the networks run in."""

import torch
from torch import Tensor


def wide(tensor: Tensor) -> Tensor:
    """Return fp32, or the tensor's own dtype where that is wider: bf16 has 3 digits, and a loss is a difference."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
