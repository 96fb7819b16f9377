"""Pareto front of a design, the choice with its reason, and the nearest candidates if none meets all limits.

Only measured figures count. A candidate's quality is that of its last rung; a candidate with less training has a lower
quality than it could reach, so the table shows its share of the training.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from distillation.design import halving
from distillation.design.candidates import Candidate
from distillation.design.limits import BEST, FASTEST, Limits, shown

BINDING = 0.1  # a limit binds if the value is within this share of it
NAMES = ("size", "time", "memory", "quality")


@dataclass(frozen=True)
class Choice:
    """number: of the chosen candidate, None if nothing was judged; meets: whether it is within all limits."""

    number: int | None
    meets: bool
    reason: str


@dataclass(frozen=True)
class Nearest:
    """The candidate that misses the limit `name` by the least among those within the other limits."""

    name: str
    limit: float
    value: float
    number: int


def value_of(candidate: Candidate, name: str) -> float | None:
    """Return what was measured for the limit of this name."""
    if name == "quality":
        return None if candidate.last is None else candidate.last.quality
    return None if candidate.costs is None else getattr(candidate.costs, name)


def front(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the judged candidates that no other one dominates, the smallest first."""
    judged = [candidate for candidate in candidates if candidate.rungs]
    found = [one for one in judged if not any(halving.dominates(other, one) for other in judged)]
    return sorted(found, key=lambda one: (value_of(one, "size") or 0, one.number))


def choose(candidates: Sequence[Candidate], limits: Limits, wish: str) -> Choice:
    """Return the choice: by the wish among candidates within all limits, else the one of best quality."""
    judged = [one for one in candidates if one.rungs and _within(one, limits, without="quality")]
    if not judged:
        return Choice(None, False, _nothing(candidates, limits))
    good = [one for one in judged if _is_good(one, judged, limits)]
    if not good:
        best = _best(judged)
        return Choice(best.number, False, _short_of_quality(best, limits))
    key = {BEST: "quality", FASTEST: "time"}.get(wish, "size")
    chosen = (
        _best(good) if wish == BEST else min(good, key=lambda one: (_cost(one, key), one.number))
    )
    return Choice(chosen.number, True, _reason(chosen, judged, limits, wish, key))


def nearest(candidates: Sequence[Candidate], limits: Limits) -> list[Nearest]:
    """Return, for each limit that no candidate meets, the candidate that misses it by the least.

    Only candidates within the other limits count, if there are any.
    """
    found = []
    for name in NAMES:
        limit = getattr(limits, name)
        measured = [one for one in candidates if value_of(one, name) is not None]
        if limit is None or not measured:
            continue
        kept = [one for one in measured if _within(one, limits, without=name)] or measured
        best = max(kept, key=lambda one: (_slack(one, name, limit), -one.number))
        if _slack(best, name, limit) < 0:
            found.append(Nearest(name, limit, _cost(best, name), best.number))
    return found


# --- measures -------------------------------------------------------------------------------------
def _cost(candidate: Candidate, name: str) -> float:
    value = value_of(candidate, name)
    return float("inf") if value is None else float(value)


def _slack(candidate: Candidate, name: str, limit: float) -> float:
    """Return the distance to the limit as a share of the limit; negative if the limit is missed."""
    value = _cost(candidate, name)
    return (value - limit) / limit if name == "quality" else (limit - value) / limit


def _within(candidate: Candidate, limits: Limits, *, without: str) -> bool:
    """Return whether it meets all limits except `without`; a limit of an unmeasured value is not met."""
    return all(
        value_of(candidate, name) is not None and _slack(candidate, name, limit) >= 0
        for name in NAMES
        if name != without and (limit := getattr(limits, name)) is not None
    )


def _best(candidates: Sequence[Candidate]) -> Candidate:
    def key(one: Candidate) -> tuple[float, float, int]:
        distance = one.last.distance if one.last is not None else float("inf")
        return (_cost(one, "quality"), -distance, -one.number)

    return max(candidates, key=key)


def _is_good(candidate: Candidate, judged: Sequence[Candidate], limits: Limits) -> bool:
    """Return whether it meets the quality limit; without one, whether its interval overlaps that of the best."""
    if limits.quality is not None:
        return _slack(candidate, "quality", limits.quality) >= 0
    best, own = _best(judged).last, candidate.last
    return own is not None and best is not None and own.high >= best.low


# --- sentences ------------------------------------------------------------------------------------
def _reason(
    chosen: Candidate, judged: Sequence[Candidate], limits: Limits, wish: str, key: str
) -> str:
    """Return the reason of the choice as a sentence: binding limits, and the loss of quality of cheaper candidates."""
    words = {"quality": "the best", "time": "the fastest", "size": "the smallest"}[key]
    own = f"Candidate {chosen.number} is {words} that {_meeting(limits)}"
    bound = [
        f"the limit {name} binds ({shown(name, _cost(chosen, name))} of {shown(name, limit)})"
        for name in NAMES
        if (limit := getattr(limits, name)) is not None
        and 0 <= _slack(chosen, name, limit) <= BINDING
    ]
    return "; ".join([own, *bound, *_trades(chosen, judged, wish)]) + "."


def _meeting(limits: Limits) -> str:
    if not limits.as_json():
        return "was judged"
    rest = "" if limits.quality is not None else " and is not measurably worse than the best"
    return f"meets all limits{rest}"


def _trades(chosen: Candidate, judged: Sequence[Candidate], wish: str) -> Iterator[str]:
    """Yield for size and time how much quality the best cheaper candidate would lose."""
    for name in ("size", "time"):
        cheaper = [
            one
            for one in judged
            if _cost(one, name) < _cost(chosen, name) and _cost(one, "quality") <= _cost(chosen, "quality")
        ]  # fmt: skip
        if not cheaper:
            continue
        next_one = _best(cheaper)
        saved = shown(name, _cost(chosen, name) - _cost(next_one, name))
        points = 100 * (_cost(chosen, "quality") - _cost(next_one, "quality"))
        less = "smaller" if name == "size" else "faster"
        yield f"{saved} {less} (candidate {next_one.number}) would cost {points:.1f} points"


def _short_of_quality(best: Candidate, limits: Limits) -> str:
    last = best.last
    if last is None or limits.quality is None:
        return ""
    return (
        f"No candidate within the other limits reached quality {limits.quality:g}: candidate {best.number} has "
        f"{last.quality:.3f} ({last.low:.3f} to {last.high:.3f}) after {100 * last.share:.0f} % of its training."
    )


def _nothing(candidates: Sequence[Candidate], limits: Limits) -> str:
    measured = [one for one in candidates if one.costs is not None]
    refused = [one for one in candidates if one.refused]
    if not measured:
        why = f" The last one: {refused[-1].refused}" if refused else ""
        return f"No candidate could be measured.{why}"
    if any(_within(one, limits, without="quality") for one in measured):
        return "No candidate within the limits was judged in time. Give more hours: the same command continues."
    points = "; ".join(
        f"{each.name}: {shown(each.name, each.value)} for a limit of {shown(each.name, each.limit)} "
        f"(candidate {each.number})"
        for each in nearest(candidates, limits)
    )
    return f"None of {len(measured)} measured candidates is within the limits; nearest by each limit: {points}."
