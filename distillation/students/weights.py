"""A cut student's tensors, copied from its teacher's by an explicit table of names.

The table also copies other values per weight, like posterior variances: with a diagonal posterior the student's prior
is the teacher's posterior of the weights that it keeps.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from distillation.students import cuts
from distillation.students.cuts import Cut
from distillation.students.unets import UNetShape

# The tensors of a residual block that are indexed by its inputs: the axis, and whether the values of a new input are
# copied from the input that it duplicates (a norm) or are new.
_INPUTS = {
    "norm1.weight": (0, True),
    "norm1.bias": (0, True),
    "conv1.weight": (1, False),
    "conv_shortcut.weight": (1, False),
}


def copy(
    tensors: Mapping[str, Tensor], teacher: UNetShape, *, cut: Cut, new: float = 0.0
) -> dict[str, Tensor]:
    """Return copies of the teacher's tensors under the student's names, all that the student has.

    Some tensors have no exact source. When the removed stage is wider than the one above it, the student's first up
    layer reads, in place of the stage's output, its own hidden state: the tensor that it also reads as the skip. The
    weights on the removed output are dropped (conditioned on zero), those on the skip are copied, those on the new
    input start at `new`: 0 for weights, so that the layer uses the skip alone; for variances give that of the prior.
    The norm of the new input is that of the skip. The shapes of such tensors differ from their sources'.

    Raises StudentRefused if the tensors are not the teacher's.
    """
    teacher.require(tensors)
    copies = {}
    for name, shape in cuts.student_shape(teacher, cut).tensors.items():
        source = tensors[source_of(name, cut)]
        is_whole = source.shape == shape
        copies[name] = source.detach().clone() if is_whole else _extended(name, source, shape, new)
    return copies


def source_of(name: str, cut: Cut) -> str:
    """Return the name of the teacher's tensor that this tensor of the student comes from."""
    parts = name.split(".")
    layers = {"down_blocks": cut.down_layers, "up_blocks": cut.up_layers}.get(parts[0])
    if layers is None:
        return name  # outside of the stages all is kept
    if parts[0] == "up_blocks":
        parts[1] = str(int(parts[1]) + cut.inner_stages_removed)
    if parts[2] in ("resnets", "attentions"):
        parts[3] = str(layers[int(parts[3])])
    return ".".join(parts)


def _extended(name: str, source: Tensor, shape: torch.Size, new: float) -> Tensor:
    """Return the skip's part of the teacher's tensor, preceded by as many new inputs: `new`, or copies of it."""
    axis, is_doubled = _INPUTS[".".join(name.split(".")[-2:])]
    skip = shape[axis] // 2
    kept = source.detach().narrow(axis, source.shape[axis] - skip, skip)
    tensor = torch.cat([kept if is_doubled else torch.full_like(kept, new), kept], dim=axis)
    if tensor.shape != shape:
        raise AssertionError(f"{name}: {tuple(tensor.shape)} made, {tuple(shape)} needed.")
    return tensor
