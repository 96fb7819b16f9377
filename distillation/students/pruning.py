"""Cost of removing channels and blocks from a teacher, by its posterior; and the prior of the pruned student.

The cost of a weight is m² ÷ σ²: twice the fall of the log density of its posterior N(m, σ²) from its mean to zero
(Graves 2011). The cost of a neuron is the sum over its outgoing weights, that of a residual block the sum over its last
projection: the removal conditions these weights on zero. With a diagonal posterior this changes no other weight, so the
student's prior is the teacher's posterior of the remaining weights.
"""

from dataclasses import replace

import torch
from torch import Tensor

from distillation.students import cuts, weights, widths
from distillation.students.channels import Layout
from distillation.students.cuts import Cut
from distillation.students.errors import StudentRefused
from distillation.students.posterior import LARGEST, Posterior
from distillation.students.unets import ATTENDS, UNetShape
from distillation.students.widths import WidthPlan

MID = "mid_block"
LAST = ("conv2", "proj_out")  # last projections of residual blocks and of attentions


def relevance(posterior: Posterior) -> dict[str, Tensor]:
    """Return m² ÷ σ² of every weight, float32, by tensor."""
    return {
        name: mean.float() ** 2 / posterior.variance[name].float()  # in float16 squares underflow
        for name, mean in posterior.mean.items()
    }


def channel_scores(posterior: Posterior, layout: Layout) -> dict[str, Tensor]:
    """Return for each space the sums of m² ÷ σ² over the outgoing weights of each channel, float64 [channels].

    The outgoing weights of a channel of a residual stream are those of all layers that read the stream.
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


def block_scores(posterior: Posterior, shape: UNetShape) -> dict[str, float]:
    """Return for each block that can be removed the sum of m² ÷ σ² over its last projections.

    Blocks: the mid block, and by the number of the level all attentions of that level, on the way down and up.
    """
    scores: dict[str, float] = {}
    for name, ratios in relevance(posterior).items():
        stage, _, rest = name.partition(".")
        parts = rest.split(".")
        if len(parts) < 3 or parts[-2] not in LAST:
            continue
        if stage == MID:
            block = MID
        elif parts[1] == "attentions":
            number = int(parts[0])
            block = str(number if stage == "down_blocks" else shape.levels - 1 - number)
        else:
            continue
        scores[block] = scores.get(block, 0.0) + float(ratios.double().sum())
    return scores


def without_least(cut: Cut, teacher: UNetShape, posterior: Posterior) -> Cut:
    """Return the cut that also removes the block of least cost; the cut itself if it is not one of `…-least`.

    The student keeps a block with cross-attention. posterior: of the teacher. Raises StudentRefused if no block can be
    removed.
    """
    if not cut.loses_least:
        return cut
    plain = replace(cut, loses_least=False)
    shape = cuts.student_shape(teacher, plain)
    scores = block_scores(prior_of_cut(posterior, teacher, cut=plain), shape)
    attending = [str(level) for level, kind in enumerate(shape.down) if ATTENDS[kind]]
    for block in sorted(scores, key=scores.__getitem__):
        if block == MID:
            found = replace(plain, is_mid_kept=False)
        else:
            found = replace(plain, without_attention=(attending.index(block),))
        try:
            cuts.student_shape(teacher, found)
        except StudentRefused:
            continue
        return found
    raise StudentRefused(
        f"The cut {cut.name!r} removes one more block, and none of this teacher's can go. Use one that keeps more, "
        "such as 'base-least', or a cut without '-least'."
    )


# --- the student's prior --------------------------------------------------------------------------
def prior_of_cut(
    posterior: Posterior, teacher: UNetShape, *, cut: Cut, new_variance: float = LARGEST
) -> Posterior:
    """Return the prior of a cut student. `new_variance`: of weights that the teacher lacks (`weights.copy`), mean 0."""
    return Posterior(
        weights.copy(posterior.mean, teacher, cut=cut),
        weights.copy(posterior.variance, teacher, cut=cut, new=new_variance),
    )


def prior_of_widths(posterior: Posterior, plan: WidthPlan) -> Posterior:
    """Return the prior of a narrower student: removed neurons' outgoing weights are conditioned on zero, incoming ones
    integrated out."""
    return Posterior(
        widths.narrow(posterior.mean, plan), widths.narrow_variances(posterior.variance, plan)
    )
