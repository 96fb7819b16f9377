"""A student's tensors out of its teacher's, by an explicit table of names. Knows no training.

What is true of the weights is true of any values that belong to them one by one, such as posterior variances: with a
diagonal posterior the student's prior is the teacher's posterior of the weights that it keeps.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from distillation.students import cuts, unets
from distillation.students.cuts import Cut

# The tensors of a residual block that are indexed by its inputs, with the axis, and whether a new input's value is
# taken from the input that it doubles (a norm) or is new.
_INPUTS = {
    "norm1.weight": (0, True),
    "norm1.bias": (0, True),
    "conv1.weight": (1, False),
    "conv_shortcut.weight": (1, False),
}


@dataclass(frozen=True)
class Copied:
    """A student's tensors, all of them, and where they come from."""

    tensors: dict[str, Tensor]  # complete: names and shapes as the student's configuration asks
    sources: dict[str, str]  # of each the teacher's tensor
    partly_new: tuple[str, ...]  # the student's tensors of which the teacher has only a part
    left_behind: tuple[str, ...]  # the teacher's tensors that the student has nothing of


def sources(teacher_config: Mapping[str, Any], cut: Cut) -> dict[str, str]:
    """Of each of the student's tensors the name of the teacher's tensor that it comes from."""
    return {
        name: _source(name, cut) for name in unets.shapes(cuts.student_config(teacher_config, cut))
    }


def copy(
    teacher: Mapping[str, Tensor],
    *,
    teacher_config: Mapping[str, Any],
    cut: Cut,
    new: float = 0.0,
) -> Copied:
    """Copies of the teacher's tensors under the student's names; the teacher's are not changed or shared.

    One thing may have no counterpart. When the removed stage is wider than the one above it, the student's first up
    layer reads, in place of the stage's output, its own hidden state: the tensor that it also reads as the skip. The
    weights on the removed output are gone (conditioned on zero), those on the skip are copied, those on the new input
    begin at `new`: 0 for weights, so that the layer acts on the skip alone; for variances give the width of the prior.
    The norm of the new input is that of the skip. Such tensors are listed as `partly_new`.

    Raises StudentRefused if the teacher's tensors are not those of its configuration.
    """
    config = unets.complete(teacher_config)
    expected = unets.shapes(cuts.student_config(config, cut))
    unets.require(teacher, unets.shapes(config))
    names = {name: _source(name, cut) for name in expected}
    tensors: dict[str, Tensor] = {}
    partly_new = []
    for name, shape in expected.items():
        source = teacher[names[name]]
        if source.shape == shape:
            tensors[name] = source.detach().clone()
        else:
            tensors[name] = _with_new_inputs(name, source, shape, new)
            partly_new.append(name)
    left_behind = tuple(name for name in teacher if name not in set(names.values()))
    return Copied(tensors, names, tuple(partly_new), left_behind)


def _source(name: str, cut: Cut) -> str:
    parts = name.split(".")
    layers = {"down_blocks": cut.down_layers, "up_blocks": cut.up_layers}.get(parts[0])
    if layers is None:
        return name  # outside of the stages all is kept
    if parts[0] == "up_blocks":
        parts[1] = str(int(parts[1]) + cut.inner_stages_removed)
    if parts[2] in ("resnets", "attentions"):
        parts[3] = str(layers[int(parts[3])])
    return ".".join(parts)


def _with_new_inputs(name: str, source: Tensor, shape: torch.Size, new: float) -> Tensor:
    """The skip's half of the teacher's tensor, after as many inputs that are new or double it."""
    axis, is_doubled = _INPUTS[".".join(name.split(".")[-2:])]
    skip = shape[axis] // 2
    kept = source.detach().narrow(axis, source.shape[axis] - skip, skip)
    tensor = torch.cat([kept if is_doubled else torch.full_like(kept, new), kept], dim=axis)
    if tensor.shape != shape:
        raise AssertionError(f"{name}: {tuple(tensor.shape)} made, {tuple(shape)} needed.")
    return tensor
