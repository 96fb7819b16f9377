"""Precision, shapes and weights of the tensors that losses compare."""

import torch
from torch import Tensor


def wide(tensor: Tensor) -> Tensor:
    """Return the tensor in fp32, or its own dtype if that is wider: bf16 has 3 digits, and a loss is a difference."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def require_one_shape(*tensors: Tensor) -> None:
    """Raise ValueError for tensors of several shapes."""
    if len({tensor.shape for tensor in tensors}) > 1:
        raise ValueError(f"Tensors differ in shape: {', '.join(str([*t.shape]) for t in tensors)}.")


def weighted_mean(values: Tensor, weights: Tensor | None) -> Tensor:
    """Return the scalar mean of values × weights. weights: constant, same shape or None (1). Raises ValueError."""
    if weights is None:
        return values.mean()
    if weights.shape != values.shape:
        raise ValueError(f"weights must be {list(values.shape)}, not {list(weights.shape)}.")
    weights = weights.detach()
    if not ((weights >= 0) & weights.isfinite()).all():
        raise ValueError("The weights must be finite and not negative.")
    return (values * weights.to(values)).mean()
