"""Whether a picture shows what its prompt states, by a detector's probabilities. Knows no network and no picture.

Of a group of bits (one of which is set) the likeliest must be the one that is wanted. A bit that stands alone, and a
bit that must be absent in a group of which none is wanted, is judged by its own threshold.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


def groups_stated(stated: Tensor, groups: Sequence[int]) -> Tensor:
    """bool [P, groups]: which groups hold a bit that is stated. stated: bool [P, bits]."""
    _check_bits(stated, groups)
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
    """bool [N, groups]: each group is as it is stated; True where nothing is stated.

    probabilities [N, bits]; wanted, stated: bool [N, bits], or [bits] of the one prompt of these pictures; groups:
    sizes; thresholds [bits]. Raises ValueError for a group of which two bits are wanted: it can never be right.
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
    """fp32 [N, groups] from −1 to 1: by how much each group is as it is stated, above 0 where `groups_right` says so.

    The probability of the wanted bit less that of the likeliest other; of a bit that its own threshold judges, how far
    the probability is on the right side. 1 where nothing is stated. Arguments as those of `groups_right`.
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


def group_names(bits: Sequence[str], groups: Sequence[int], *, most: int = 3) -> list[str]:
    """A name for each group by its first words: "vase, bowl, mug …"."""
    names, start = [], 0
    for size in groups:
        words = bits[start : start + size]
        names.append(", ".join(words[:most]) + (" …" if size > most else ""))
        start += size
    return names


def _by_group(
    probabilities: Tensor,
    wanted: Tensor,
    stated: Tensor,
    groups: Sequence[int],
    thresholds: Tensor,
) -> Iterator[tuple[Tensor, ...]]:
    """Of each group the probabilities, how far they are above their thresholds, wanted and stated; [N, size] each."""
    _check_bits(probabilities, groups)
    parts = [
        values.expand_as(probabilities).split(list(groups), dim=1)
        for values in (probabilities, probabilities - thresholds, wanted, stated)
    ]
    return zip(*parts, strict=True)


def _check_bits(values: Tensor, groups: Sequence[int]) -> None:
    if values.ndim != 2 or values.shape[1] != sum(groups):
        raise ValueError(
            f"Values are [N, bits] of the {sum(groups)} bits of the groups, not {list(values.shape)}."
        )
