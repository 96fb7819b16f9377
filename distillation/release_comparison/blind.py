"""Blind comparison of two releases by a person: random sides of the pictures, and the tally of the answers."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from math import comb

from distillation.release_comparison import side_by_side
from distillation.release_comparison.side_by_side import Pair
from generation.models import Release

SHOWN = 24  # pairs
LEFT, RIGHT, SAME = "left", "right", "same"


@dataclass(frozen=True)
class Trial:
    """A pair with randomly drawn sides."""

    pair: Pair
    is_swapped: bool  # the second release is on the left


@dataclass(frozen=True)
class Tally:
    """Numbers of preferences for each release."""

    first: int
    second: int
    same: int

    @property
    def chance(self) -> float | None:
        """Return the two-sided p-value of the sign test; None without a preference."""
        count, most = self.first + self.second, max(self.first, self.second)
        if not count:
            return None
        return min(1.0, 2 * sum(comb(count, k) for k in range(most, count + 1)) / 2**count)


def trials(
    first: Release, second: Release, *, not_covered_by: Release | None = None
) -> list[Trial]:
    """Return up to SHOWN pairs, whose selection, order and sides follow from a hash: the same at every call.

    Pairs that changed most are not preferred, because that would bias the sample. not_covered_by: see
    `side_by_side.pairs`.
    """

    def drawn(pair: Pair) -> bytes:
        text = f"{first.name} {second.name} {pair.embedding} {pair.seed}"
        return hashlib.sha256(text.encode()).digest()

    found = side_by_side.pairs(first, second, not_covered_by=not_covered_by)
    chosen = sorted(found, key=drawn)[:SHOWN]
    return [Trial(pair, is_swapped=bool(drawn(pair)[-1] & 1)) for pair in chosen]


def tally(found: list[Trial], answers: Mapping[str, str]) -> Tally:
    """Count the answers. answers: LEFT, RIGHT or SAME by the pair's embedding; others are left out."""
    first = second = same = 0
    for trial in found:
        answer = answers.get(trial.pair.embedding)
        if answer == SAME:
            same += 1
        elif answer in (LEFT, RIGHT):
            is_first = (answer == LEFT) != trial.is_swapped
            first, second = first + is_first, second + (not is_first)
    return Tally(first, second, same)
