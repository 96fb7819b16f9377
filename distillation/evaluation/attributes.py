"""Agreement of pictures with their prompts, by the probabilities of a detector.

The most likely bit of a group (exactly one of which is present) must be the wanted one. A group of one bit, and a group
in which no bit is wanted, is judged by the thresholds of its bits.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from distillation.detector.version import grouped

NAMED = 3  # words of a group in its name


def groups_stated(stated: Tensor, groups: Sequence[int]) -> Tensor:
    """Return which groups contain a stated bit, bool [P, groups]. stated: bool [P, bits]."""
    parts = stated.split(list(groups), dim=1)
    return torch.stack([part.any(1) for part in parts], dim=1)


def groups_right(
    probabilities: Tensor,
    *,
    wanted: Tensor,
    stated: Tensor,
    groups: Sequence[int],
    thresholds: Tensor,
) -> Tensor:
    """Return whether each group is as stated, bool [N, groups]; True where nothing is stated.

    probabilities [N, bits]; wanted, stated: bool [N, bits], or [bits] of one prompt for all pictures; groups: sizes;
    thresholds [bits]. Raises ValueError for a group of which two bits are wanted: it can never be right.
    """
    found = []
    for likely, over, want, state in _by_group(probabilities, wanted, stated, groups, thresholds):
        present = over >= 0
        by_thresholds = ((present == want) | ~state).all(1)
        if want.shape[1] == 1:
            found.append(by_thresholds)
            continue
        if (want.sum(1) > 1).any():
            raise ValueError("wanted: one bit of a group can be set, not two.")
        is_likeliest = likely.argmax(1) == want.int().argmax(1)
        found.append(torch.where(want.any(1), is_likeliest, by_thresholds))
    return torch.stack(found, dim=1)


def margins(
    probabilities: Tensor,
    *,
    wanted: Tensor,
    stated: Tensor,
    groups: Sequence[int],
    thresholds: Tensor,
) -> Tensor:
    """Return the margin by which each group is as stated, fp32 [N, groups] from −1 to 1; above 0 if it is right.

    The probability of the wanted bit minus that of the most likely other one; for a bit judged by its threshold, the
    distance to that. 1 where nothing is stated. Arguments as in `groups_right`.
    """
    found = []
    for likely, over, want, state in _by_group(probabilities, wanted, stated, groups, thresholds):
        least = torch.where(want, over, -over).masked_fill(~state, 1).amin(1)
        if want.shape[1] == 1:
            found.append(least)
            continue
        lead = likely.masked_fill(~want, -1).amax(1) - likely.masked_fill(want, -1).amax(1)
        found.append(torch.where(want.any(1), lead, least))
    return torch.stack(found, dim=1)


def group_names(bits: Sequence[str], groups: Sequence[int]) -> list[str]:
    """Return a name for each group, of its first words: "vase, bowl, mug …"."""
    return [
        ", ".join(words[:NAMED]) + (" …" if len(words) > NAMED else "")
        for words in grouped(bits, groups)
    ]


def _by_group(
    probabilities: Tensor,
    wanted: Tensor,
    stated: Tensor,
    groups: Sequence[int],
    thresholds: Tensor,
) -> Iterator[tuple[Tensor, ...]]:
    """Yield the probabilities, their excess over the thresholds, wanted and stated of each group; [N, size] each."""
    parts = [
        values.expand_as(probabilities).split(list(groups), dim=1)
        for values in (probabilities, probabilities - thresholds, wanted, stated)
    ]
    return zip(*parts, strict=True)
