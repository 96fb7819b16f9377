"""Choice of the channels that a narrower student keeps, by given scores; and its tensors.

Every level keeps the same share of its channels, norm groups, heads and of the time embedding, so groups and heads keep
their size, GroupNorms their statistics and attentions their scale. Groups and heads are kept or removed as wholes.

Removing channels whose outgoing weights are zero changes no output, with two exceptions. A LayerNorm takes its mean and
variance over the remaining channels. And a GroupNorm over a hidden state and a skip has groups that may span the
boundary of the two, or two groups of one of them; `exact_shares` lists the shares at which channels can be chosen so
that all such groups stay whole.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from distillation.students import channels, sinusoids
from distillation.students.channels import Layout
from distillation.students.errors import StudentRefused
from distillation.students.sinusoids import Sinusoids
from distillation.students.unets import UNetShape

Segment = tuple[int, int]  # first channel, and the one after the last


@dataclass(frozen=True)
class WidthPlan:
    """The channels that a narrower student keeps."""

    teacher: UNetShape
    student: UNetShape
    layout: Layout  # of the teacher
    kept: dict[str, Tensor]  # of each space the channels, int64, ascending
    sinusoids: Sinusoids  # of the time embedding


def exact_shares(teacher: UNetShape) -> tuple[Fraction, ...]:
    """Return the shares of channels at which every group of every GroupNorm can stay whole, ascending."""
    layout = channels.layout(teacher)
    shares = (Fraction(kept, teacher.groups) for kept in range(1, teacher.groups))
    return tuple(
        share
        for share in shares
        if _obstacle(teacher, share) is None
        and all(
            _fits(_segments(layout, name, are_whole=True), _dropped(space.channels, share))
            for name, space in layout.spaces.items()
        )
    )


def plan(
    teacher: UNetShape,
    share: Fraction,
    *,
    scores: Mapping[str, Tensor],
    may_mix_norms: bool = False,
) -> WidthPlan:
    """Return the plan that keeps the share of every space's channels with the highest scores, as norms and heads allow.

    `scores`: for each space of `channels.layout` a value per channel, [channels], such as `pruning.channel_scores`;
    channels that are removed together are ranked by their sum. `may_mix_norms` allows shares that are not among
    `exact_shares`. Raises StudentRefused.
    """
    layout = channels.layout(teacher)
    share = Fraction(share)
    obstacle = "It must lie between 0 and 1." if not 0 < share < 1 else _obstacle(teacher, share)
    if obstacle:
        raise StudentRefused(f"A share of {share} of the channels cannot be kept. {obstacle}")
    if not may_mix_norms and share not in (shares := exact_shares(teacher)):
        exact = ", ".join(map(str, shares)) or "none"
        raise StudentRefused(
            f"At a share of {share} some GroupNorms cannot keep whole groups. Shares at which they can: {exact}. "
            "Allow mixed norms if the student is trained afterwards."
        )
    kept = {}
    for name, space in layout.spaces.items():
        score = _score(scores, name, space.channels)
        segments = _segments(layout, name, are_whole=not may_mix_norms)
        kept[name] = _kept(score, segments, _dropped(space.channels, share))
    fitted = sinusoids.fit(teacher, share)
    student = teacher.changed(
        {
            "block_out_channels": tuple(int(width * share) for width in teacher.widths),
            "norm_num_groups": int(teacher.groups * share),
            "attention_head_dim": _heads(teacher, share),
            "time_embedding_dim": len(kept["time_embedding"]),
            "freq_shift": fitted.freq_shift,
        }
    )
    return WidthPlan(teacher, student, layout, kept, fitted)


def narrow(tensors: Mapping[str, Tensor], plan: WidthPlan) -> dict[str, Tensor]:
    """Return the student's weights: the kept channels of the teacher's, as copies.

    The first layer of the time embedding is multiplied by `plan.sinusoids.mix`, as the student has fewer frequencies.
    """
    return _narrow(tensors, plan, plan.sinusoids.mix)


def narrow_variances(variances: Mapping[str, Tensor], plan: WidthPlan) -> dict[str, Tensor]:
    """Return the variances of the result of `narrow` for independent weights with these variances."""
    return _narrow(variances, plan, plan.sinusoids.mix**2)


def _narrow(tensors: Mapping[str, Tensor], plan: WidthPlan, mix: Tensor) -> dict[str, Tensor]:
    plan.teacher.require(tensors)
    indices: dict[tuple[str, int], list[tuple[int, Tensor]]] = {}
    for slot in plan.layout.slots:
        parts = indices.setdefault((slot.tensor, slot.axis), [])
        parts.append((slot.start, plan.kept[slot.space] + slot.start))
    narrowed = {name: tensor.detach() for name, tensor in tensors.items()}
    for name in set(narrowed) - {name for name, _ in indices}:
        narrowed[name] = narrowed[name].clone()  # no channels are removed: conv_out.bias
    for (name, axis), parts in indices.items():
        index = torch.cat([part for _, part in sorted(parts, key=lambda pair: pair[0])])
        narrowed[name] = narrowed[name].index_select(axis, index.to(narrowed[name].device))
    first = narrowed[channels.FREQUENCIES]
    narrowed[channels.FREQUENCIES] = (first.double() @ mix.to(first.device)).to(first.dtype)
    plan.student.require(narrowed)
    return narrowed


# --- requirements of a share on the configuration --------------------------------------------------
def _dropped(width: int, share: Fraction) -> int:
    return width - int(width * share)


def _obstacle(teacher: UNetShape, share: Fraction) -> str | None:
    """Return why the share cannot be kept, with what would help; None if it can."""
    groups = teacher.groups
    if (groups * share).denominator != 1:
        return (
            f"norm_num_groups ({groups}) must keep a whole number: give a multiple of 1/{groups}."
        )
    for level, heads in enumerate(teacher.heads):
        if teacher.attends(level) and (heads * share).denominator != 1:
            return (
                f"Level {level} has {heads} heads (attention_head_dim), which go as wholes: "
                f"give a multiple of 1/{heads}."
            )
    first = teacher.widths[0]
    if first % 2 or (first * share) % 2:
        return f"The {first} channels of the first level and {first * share} must be even: they are sines and cosines."
    if (teacher.time_width * share).denominator != 1:
        return f"time_embedding_dim ({teacher.time_width}) must keep a whole number."
    return None


def _heads(teacher: UNetShape, share: Fraction) -> int | tuple[int, ...]:
    given = teacher.config["attention_head_dim"]
    if isinstance(given, int):
        return int(given * share)
    return tuple(  # levels without attention ignore the number
        int(number * share) if teacher.attends(level) else number
        for level, number in enumerate(teacher.heads)
    )


# --- channels -------------------------------------------------------------------------------------
def _segments(layout: Layout, space: str, *, are_whole: bool) -> list[Segment]:
    """Return the runs of channels of a space that can be removed independently, ascending.

    With `are_whole` a run ends only where a group ends in every norm that reads the space, at whatever offset. Then the
    removal of a run removes whole groups of each norm, and the other runs keep theirs. Channels in no run share a group
    with another space, and are kept.
    """
    unit, width = layout.spaces[space].unit, layout.spaces[space].channels
    readers = _readers(layout)[space] if are_whole else []
    points = [
        point
        for point in range(0, width + 1, unit)
        if all((start + point) % size == 0 for start, size in readers)
    ]
    return list(itertools.pairwise(points))


def _readers(layout: Layout) -> dict[str, list[tuple[int, int]]]:
    """Return for each space the pairs (offset of its first channel, group size) of all norms over it."""
    readers: dict[str, list[tuple[int, int]]] = {space: [] for space in layout.spaces}
    for norm in layout.norms:
        # all norms have equally many groups, and a stream's unit is one group of its own norm
        first = layout.spaces[norm[0]]
        width = sum(layout.spaces[space].channels for space in norm)
        size = width * first.unit // first.channels
        start = 0
        for space in norm:
            readers[space].append((start, size))
            start += layout.spaces[space].channels
    return readers


def _fits(segments: list[Segment], dropped: int) -> bool:
    """Return whether some of the segments have this total length."""
    lengths = [stop - start for start, stop in segments]
    if len(set(lengths)) == 1:
        return dropped % lengths[0] == 0 and dropped <= sum(lengths)
    sums = {0}
    for length in lengths:
        sums |= {total + length for total in sums}
    return dropped in sums


def _kept(scores: Tensor, segments: list[Segment], dropped: int) -> Tensor:
    """Return the channels left after the removal of the segments with the least total score at this total length."""
    values = [float(scores[start:stop].sum()) for start, stop in segments]
    lengths = {stop - start for start, stop in segments}
    if len(lengths) == 1:
        order = sorted(range(len(segments)), key=values.__getitem__)
        removed = tuple(order[: dropped // lengths.pop()])
    else:
        # the least total score for each reachable length (a knapsack)
        best: dict[int, tuple[float, tuple[int, ...]]] = {0: (0.0, ())}
        for number, (start, stop) in enumerate(segments):
            for length, (value, chosen) in sorted(best.items(), reverse=True):
                longer = length + stop - start
                candidate = (value + values[number], (*chosen, number))
                if longer <= dropped and (longer not in best or candidate < best[longer]):
                    best[longer] = candidate
        removed = best[dropped][1]
    is_kept = torch.ones(len(scores), dtype=torch.bool)
    for number in removed:
        is_kept[slice(*segments[number])] = False
    return is_kept.nonzero()[:, 0]


def _score(scores: Mapping[str, Tensor], space: str, width: int) -> Tensor:
    found = scores.get(space)
    if found is None or found.shape != (width,):
        raise StudentRefused(
            f"The scores of {space} are {'missing' if found is None else tuple(found.shape)}: "
            f"give one for each of its {width} channels."
        )
    if not found.isfinite().all():
        raise StudentRefused(f"The scores of {space} are not all finite numbers.")
    return found.detach().double().cpu()
