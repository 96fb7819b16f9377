"""Asynchronous successive halving (Li et al., MLSys 2020, arXiv 1810.05934): which candidate to train next, how long.

A candidate is promoted to the next rung when it is in the best third of those judged in its rung. Promotion does not
wait until a rung is full, so several processes can share one search, and at any time the best candidates are trained
furthest. Optuna's pruners support one objective only and cannot be used. Once no more candidates are added, the best
third is rounded up, so that the remaining time is spent on the best.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from statistics import StatisticsError, correlation

from distillation.design.candidates import Candidate, Judged
from distillation.design.limits import FASTEST, SMALLEST, Limits

KEPT = 3  # reduction factor: one of this many is promoted to the next rung
SHARES = (1 / 27, 1 / 9, 1 / 3, 1.0)  # of the recipe's training, by rung
TOP = len(SHARES) - 1


@dataclass(frozen=True)
class Job:
    """A candidate to train for a rung."""

    candidate: Candidate
    rung: int


def next_job(
    candidates: Sequence[Candidate],
    limits: Limits,
    wish: str,
    *,
    is_adding: bool,
    may: Callable[[int, int], bool] = lambda number, rung: True,
) -> Job | None:
    """Return the next job; None: add another candidate, or stop if none is to be added.

    may: called with a candidate's number and a rung; whether time is left for it and no other process trains it.
    """
    for rung in reversed(range(TOP)):
        judged = [candidate for candidate in candidates if len(candidate.rungs) > rung]
        share = len(judged) / KEPT
        count = int(share) if is_adding else ceil(share)
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
    """Return the candidates of a rung, the best first.

    Wish best: by score (`Judged.score`). smallest, fastest: by non-dominated front; within a front by the sum of the
    ranks in score and in size or time.
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
    """Return the index of each candidate's front by its number (non-dominated sorting): 0 is the Pareto front."""

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
    """Return whether `one` Pareto-dominates `other` in size, time and the quality of the last rung."""

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
    """Return Spearman's rank correlation of a value between the rung and the next, and the number of candidates.

    The correlation is None for fewer than three candidates, and where all values are equal.
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
    """Return the rank of each value, from 0; ties get their mean rank."""
    return [
        sum(other < value for other in values) + (sum(other == value for other in values) - 1) / 2
        for value in values
    ]
