"""Asynchronous successive halving (Li et al., MLSys 2020, arXiv 1810.05934): what is trained next, and how far.

A candidate goes to the next rung when it is in the best third of those judged in its rung. Nothing waits for a rung to
fill, so several processes share one search, and the best ones known are furthest at any time. Optuna's pruners do not
take several objectives, so this is not Optuna's. When no further candidates are taken in, the best go on: then the best
third is rounded up, so that the remaining time goes into them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from statistics import StatisticsError, correlation

from distillation.design.candidates import Candidate, Judged
from distillation.design.limits import FASTEST, SMALLEST, Limits

KEPT = 3  # one of so many goes to the next rung
SHARES = (1 / 27, 1 / 9, 1 / 3, 1.0)  # of the recipe's training, by rung
TOP = len(SHARES) - 1


@dataclass(frozen=True)
class Job:
    """The candidate that is to be trained for the rung."""

    candidate: Candidate
    rung: int


def next_job(
    candidates: Sequence[Candidate],
    limits: Limits,
    wish: str,
    *,
    is_taking_in: bool,
    may: Callable[[int, int], bool] = lambda number, rung: True,
) -> Job | None:
    """Return the next job; None: take in another candidate, or stop where none is taken in.

    may: whether there is time for the candidate's rung, and no other process trains it.
    """
    for rung in reversed(range(TOP)):
        judged = [candidate for candidate in candidates if len(candidate.rungs) > rung]
        share = len(judged) / KEPT
        count = int(share) if is_taking_in else ceil(share)
        for candidate in ranked(judged, wish, rung)[:count]:
            is_here = len(candidate.rungs) == rung + 1 and not candidate.refused
            if is_here and may(candidate.number, rung + 1):
                return Job(candidate, rung + 1)
    for candidate in candidates:
        is_new = not candidate.rungs and not candidate.refused and candidate.costs is not None
        if is_new and candidate.costs.are_within(limits) and may(candidate.number, 0):  # type: ignore[union-attr]
            return Job(candidate, 0)
    return None


def ranked(judged: Sequence[Candidate], wish: str, rung: int) -> list[Candidate]:
    """Return the candidates of a rung, the best first: the wish decides among those of one front.

    best: by score (`Judged.score`). smallest, fastest: first those that no other is better than in every respect; among
    these by the sum of their places by score and in what is wished.
    """
    scores = _ranks([-candidate.rungs[rung].score for candidate in judged])
    cost = {SMALLEST: _size, FASTEST: _time}.get(wish)
    if cost is None:
        places = {one.number: (0, scores[place]) for place, one in enumerate(judged)}
    else:
        fronts = _fronts(judged, rung)
        costs = _ranks([cost(candidate) for candidate in judged])
        places = {
            one.number: (fronts[one.number], scores[place] + costs[place])
            for place, one in enumerate(judged)
        }
    return sorted(judged, key=lambda candidate: (*places[candidate.number], candidate.number))


def _fronts(judged: Sequence[Candidate], rung: int) -> dict[int, int]:
    """Return for each number the front it is in, by non-dominated sorting: 0 is the Pareto front."""

    def values(one: Candidate) -> tuple[float, float, float]:
        return _size(one), _time(one), -one.rungs[rung].score

    found: dict[int, int] = {}
    left = list(judged)
    while left:
        front = [
            one for one in left if not any(_is_better(values(other), values(one)) for other in left)
        ]
        level = max(found.values(), default=-1) + 1
        found |= {candidate.number: level for candidate in front}
        left = [candidate for candidate in left if candidate.number not in found]
    return found


def dominates(one: Candidate, other: Candidate) -> bool:
    """Return whether the first is as good in size, time and quality, each by its last rung, and better in one."""

    def values(one: Candidate) -> tuple[float, float, float]:
        return _size(one), _time(one), -one.rungs[-1].quality

    return _is_better(values(one), values(other))


def _is_better(ours: tuple[float, ...], theirs: tuple[float, ...]) -> bool:
    return ours != theirs and all(a <= b for a, b in zip(ours, theirs, strict=True))


def _size(candidate: Candidate) -> float:
    return candidate.costs.size if candidate.costs is not None else float("inf")


def _time(candidate: Candidate) -> float:
    costs = candidate.costs
    return costs.time if costs is not None and costs.time is not None else float("inf")


def agreement(
    candidates: Sequence[Candidate], rung: int, value: Callable[[Judged], float]
) -> tuple[float | None, int]:
    """Return Spearman's rank correlation of a value in the rung and in the next, and of how many candidates.

    None for fewer than three, and where all are equal.
    """
    both = [candidate for candidate in candidates if len(candidate.rungs) > rung + 1]
    if len(both) < 3:
        return None, len(both)
    first, second = (
        _ranks([value(candidate.rungs[place]) for candidate in both]) for place in (rung, rung + 1)
    )
    try:
        return correlation(first, second), len(both)
    except StatisticsError:  # all are equal
        return None, len(both)


def _ranks(values: Sequence[float]) -> list[float]:
    """Return the rank of each value; equal ones share the mean of theirs."""
    return [
        sum(other < value for other in values) + (sum(other == value for other in values) - 1) / 2
        for value in values
    ]
