"""Cost of removing channels and blocks from a teacher, by its posterior; and the prior of the student that is left.

The cost of a weight is m² ÷ σ²: twice the fall of the log density of its posterior N(m, σ²) from its mean to zero
(Graves 2011). A neuron's is the sum over the weights out of it, a residual block's over its last projection: what is
conditioned on zero when it is removed. With a diagonal posterior conditioning moves nothing else, so the student's
prior is the teacher's posterior of the weights that are left.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from distillation.students import weights, widths
from distillation.students.channels import Layout
from distillation.students.cuts import Cut
from distillation.students.posterior import LARGEST, Posterior
from distillation.students.unets import UNetShape
from distillation.students.widths import WidthPlan

Blocks = Mapping[str, tuple[str, ...]]  # of each block the tensors of its last projection


def relevance(posterior: Posterior) -> dict[str, Tensor]:
    """Return m² ÷ σ² of every weight, float32, by tensor."""
    return {
        name: mean.float() ** 2 / posterior.variance[name].float()  # in float16 squares vanish
        for name, mean in posterior.mean.items()
    }


def channel_scores(posterior: Posterior, layout: Layout) -> dict[str, Tensor]:
    """Return for each space the sums of m² ÷ σ² over the weights out of each channel, float64 [channels].

    The weights out of a channel of a residual stream are those of all layers that read the stream.
    """
    ratios = relevance(posterior)
    scores = {
        name: torch.zeros(space.channels, dtype=torch.float64)
        for name, space in layout.spaces.items()
    }
    for slot in layout.slots:
        if slot.is_outgoing:
            part = ratios[slot.tensor].narrow(
                slot.axis, slot.start, layout.spaces[slot.space].channels
            )
            scores[slot.space] += part.transpose(0, slot.axis).flatten(1).double().sum(1).cpu()
    return scores


def residual_blocks(shape: UNetShape) -> dict[str, tuple[str, ...]]:
    """Return the blocks of a UNet that can be removed alone, as their input is added to their output unchanged.

    All attentions, and the residual blocks without a convolution in the shortcut; with the names of the last
    projection's tensors.
    """
    names = shape.tensors
    found: dict[str, tuple[str, ...]] = {}
    for name in names:
        block, _, tensor = name.rpartition(".conv2.weight")
        if block and not tensor and f"{block}.conv_shortcut.weight" not in names:
            found[block] = (name, f"{block}.conv2.bias")
        block, _, tensor = name.rpartition(".proj_out.weight")
        if block and not tensor:
            found[block] = (name, f"{block}.proj_out.bias")
    return found


def block_scores(posterior: Posterior, blocks: Blocks) -> dict[str, float]:
    """Return for each block the sum of m² ÷ σ² over its last projection."""
    ratios = relevance(posterior)
    return {
        block: float(sum(ratios[name].double().sum() for name in tensors))
        for block, tensors in blocks.items()
    }


def order(scores: Mapping[str, float]) -> list[str]:
    """Return what to remove first, second, …: the least score first."""
    return sorted(scores, key=scores.__getitem__)


def silence(tensors: Mapping[str, Tensor], blocks: Blocks) -> dict[str, Tensor]:
    """Return the state dict with the blocks' last projections zero: one structure, without these blocks' effect."""
    zeroed = {name for names in blocks.values() for name in names}
    return {
        name: torch.zeros_like(tensor) if name in zeroed else tensor
        for name, tensor in tensors.items()
    }


# --- the student's prior --------------------------------------------------------------------------
def prior_without_blocks(posterior: Posterior, blocks: Iterable[str]) -> Posterior:
    """Return the posterior with the blocks' last projections conditioned on zero, the rest of them integrated out."""
    prefixes = tuple(f"{block}." for block in blocks)
    kept = [name for name in posterior.mean if not name.startswith(prefixes)]
    return Posterior(
        {name: posterior.mean[name] for name in kept},
        {name: posterior.variance[name] for name in kept},
    )


def prior_of_cut(
    posterior: Posterior, teacher: UNetShape, *, cut: Cut, new_variance: float = LARGEST
) -> Posterior:
    """Return the prior of a cut student. `new_variance`: of weights that the teacher lacks (`weights.copy`), mean 0."""
    return Posterior(
        weights.copy(posterior.mean, teacher, cut=cut),
        weights.copy(posterior.variance, teacher, cut=cut, new=new_variance),
    )


def prior_of_widths(posterior: Posterior, plan: WidthPlan) -> Posterior:
    """Return the prior of a narrower student: weights out of removed neurons are conditioned on zero, those into them
    integrated out."""
    return Posterior(
        widths.narrow(posterior.mean, plan), widths.narrow_variances(posterior.variance, plan)
    )
