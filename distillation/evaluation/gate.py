"""The gate between a candidate and the active release: named checks, each with its limit.

The limits are part of a recipe (`gate_recipe`), so they are set before anything is measured. Intervals and verdicts are
those of `noninferiority`; checks without an interval compare single numbers.
"""

from collections.abc import Mapping
from dataclasses import astuple, dataclass, replace

import torch
from torch import Tensor

from distillation.evaluation import blind_spots, noninferiority
from distillation.evaluation.gate_limits import BETTER, QUALITY
from distillation.evaluation.gate_recipe import GateRecipe
from distillation.evaluation.measured import Measured
from distillation.evaluation.noninferiority import (
    INCONCLUSIVE,
    NON_INFERIOR,
    NOT_MEASURED,
    TAIL,
    Decisive,
    Margins,
    Verdict,
)

NOTHING_JUDGED = (
    "Neither a detector nor a CLIP judged whether the pictures show what their prompts say."
)
NO_DETECTOR = (
    "No detector judged whether the pictures match their prompts, and the CLIP score alone is not sensitive enough. "
    "Train a detector, or set evaluation.margins.attributes_right and worst_prompts to null to rely on the CLIP."
)

NONE_RIGHT = (
    "The detector found none of the teacher's pictures right, so it does not tell whether the release is as good. "
    "Check that it was trained on pictures like the teacher's and that the variants' tags are its bits."
)


@dataclass(frozen=True)
class Costs:
    """Costs of a release: seconds per picture, bytes on disk, resident bytes; None = not measured."""

    seconds: float | None
    size_bytes: int
    memory_bytes: int | None = None


@dataclass(frozen=True)
class Check:
    """found: the estimate; low, high: the ends of its one-sided 95 % intervals, if there are any.

    decided: False if the measurements are too few or too uncertain to tell whether the limit is reached.
    seeds_to_decide: estimate of the seeds of each variant that would tell.
    """

    name: str
    passed: bool
    limit: float
    found: float | None
    low: float | None = None
    detail: str = ""
    decided: bool = True
    high: float | None = None
    seeds_to_decide: int | None = None


@dataclass(frozen=True)
class Gate:
    """blind_to: what the judges of its checks cannot see, by judge."""

    passed: bool
    checks: tuple[Check, ...]
    blind_to: Mapping[str, str]

    @property
    def failed(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if not check.passed)


def suspects(
    recipe: GateRecipe, candidate: Measured, teacher: Measured, active: Measured | None
) -> dict[str, float]:
    """Return the changes of the variants that lose more than the limit, by slug."""
    if recipe.variant is None:
        return {}
    changes = _changes(candidate, teacher, active)
    return {slug: change for slug, change in changes.items() if change < recipe.variant}


def decide(
    recipe: GateRecipe,
    candidate: Measured,
    teacher: Measured,
    active: Measured | None,
    *,
    margins: Margins,
    costs: Costs,
    active_costs: Costs | None,
    again: Mapping[str, float],
) -> Gate:
    """Check a candidate. margins: against the teacher; again: the changes of the suspects, measured a second time.

    active: measured on the prompts that it covers; None if there is none. Unless a judge measured whether the pictures
    show what their prompts say, the gate is not passed, and a person must look at them.
    """
    found = _against("teacher", margins, candidate, teacher)
    ways: list[str] = []
    is_judged = any(measure == "attributes_right" for measure, _ in found)
    if active is not None:
        shared = tuple(slug for slug in candidate.slugs if slug in set(active.slugs))
        if shared:
            ours, theirs = candidate.take(shared), active.take(shared)
            found += _against("active", recipe.to_active, ours, theirs)
            ways += _better(recipe.to_active, ours, theirs, teacher.take(shared))
        if new := len(candidate.slugs) - len(shared):
            ways.append("1 more prompt" if new == 1 else f"{new} more prompts")
    checks = [check for _, check in found]
    checks += _unjudged(margins, candidate, is_judged=is_judged)
    if recipe.variant is not None and candidate.right is not None:
        checks.append(_of_variants(recipe.variant, again))
    if active_costs is not None:
        to_active = _costs(recipe, costs, active_costs)
        checks += to_active
        ways += _cheaper(recipe.better, to_active)
    if recipe.better is not None and active is not None:
        checks.append(_of_ways(ways))
    checks += _absolute(recipe, costs)
    blind_to = blind_spots.of(measure for measure, _ in found)
    return Gate(all(check.passed for check in checks), tuple(checks), blind_to)


def _against(
    name: str, margins: Margins, candidate: Measured, other: Measured
) -> list[tuple[str, Check]]:
    """Return the checks against one release, with their measures."""
    return [
        (verdict.measure, _check(f"{verdict.measure} to {name}", verdict, candidate.seeds))
        for verdict in _judged(margins, candidate, other)
    ]


def _judged(
    margins: Margins, candidate: Measured, other: Measured, *, tail: float = TAIL
) -> list[Verdict]:
    found = noninferiority.judge(
        margins,
        right=_pair(candidate.right, other.right),
        spread=(candidate.spread, other.spread),
        clip_score=_pair(candidate.clip_score, other.clip_score),
        gradient=_pair(candidate.gradient, other.gradient),
        tail=tail,
    )
    return [verdict for verdict in found if verdict.outcome != NOT_MEASURED]


def _better(
    margins: Margins, candidate: Measured, active: Measured, teacher: Measured
) -> list[str]:
    """Return the measures that are better with certainty, each with its value and the end of its interval.

    Diversity and sharpness count up to the teacher's value: beyond it, faults that differ and noise raise them. The
    worst prompts do not count: with 20 to 60 prompts the interval of equal releases is above 0 four times too often.
    The tail is divided by the number of measures: otherwise one of four would be better by chance in every fifth gate.
    """
    margins = replace(margins, worst_prompts=None)
    tail = TAIL / max(1, sum(margin is not None for margin in astuple(margins)))
    ours, theirs = (_up_to(teacher, one) for one in (candidate, active))
    return [
        f"{verdict.measure} {_value(verdict, verdict.estimate)} (at least {_value(verdict, verdict.low)})"
        for verdict in _judged(margins, ours, theirs, tail=tail)
        if verdict.prompts >= noninferiority.MIN_PROMPTS
        and verdict.low is not None
        and verdict.low > (1 if verdict.is_ratio else 0)
    ]


def _up_to(teacher: Measured, other: Measured) -> Measured:
    """Return the measurements with diversity and sharpness of at most the teacher's. Both of the same prompts."""
    gradient = (
        None
        if other.gradient is None or teacher.gradient is None
        else other.gradient.minimum(teacher.gradient.to(other.gradient))
    )
    spread = other.spread.minimum(teacher.spread.to(other.spread))
    return replace(other, spread=spread, gradient=gradient)


def _value(verdict: Verdict, value: float | None) -> str:
    return f"× {value:.3f}" if verdict.is_ratio else f"{value:+.3f}"


def _cheaper(limit: float | None, to_active: list[Check]) -> list[str]:
    """Return the costs that are at most this multiple of the active release's. to_active: their checks."""
    return [
        f"{check.name.split()[0]} × {check.found:.2f}"
        for check in to_active
        if limit is not None and check.found is not None and check.found <= limit
    ]


def _of_ways(ways: list[str]) -> Check:
    """Return the check that the candidate is better somewhere. It is never a certain failure: a person decides."""
    return Check(
        BETTER,
        bool(ways),
        1.0,
        float(len(ways)),
        detail=f"Better by {', '.join(ways)}." if ways else "It is no better anywhere.",
        decided=bool(ways),
    )


def _check(name: str, verdict: Verdict, seeds: int | None) -> Check:
    decisive = None if seeds is None else noninferiority.decisive(verdict, seeds)
    return Check(
        name,
        verdict.outcome == NON_INFERIOR,
        verdict.margin,
        verdict.estimate,
        verdict.low,
        _why_open(verdict, seeds, decisive),
        verdict.outcome != INCONCLUSIVE,
        verdict.high,
        None if decisive is None else decisive.seeds,
    )


def _why_open(verdict: Verdict, seeds: int | None, decisive: Decisive | None) -> str:
    """Return why a verdict is inconclusive and what would decide it; "" if it is not."""
    if verdict.prompts < noninferiority.MIN_PROMPTS:
        few = "1 prompt is" if verdict.prompts == 1 else f"{verdict.prompts} prompts are"
        return f"{few} too few to decide; {noninferiority.MIN_PROMPTS} are enough."
    if verdict.outcome != INCONCLUSIVE:
        return ""
    if decisive is None:
        return "More seeds would hardly decide it: the value is too near to the limit."
    what = "would decide it" if decisive.outcome == NON_INFERIOR else "would show that it fails"
    few = "1 seed of each prompt is" if seeds == 1 else f"{seeds} seeds of each prompt are"
    return f"{few} too few; about {decisive.seeds} {what}, if the value stays."


def _unjudged(margins: Margins, candidate: Measured, *, is_judged: bool) -> list[Check]:
    """Return a failed check if a judge is missing or decides nothing; otherwise none.

    is_judged: whether the share of right pictures could be compared with the teacher's.
    """
    is_tested = margins.attributes_right is not None
    if candidate.right is not None:
        why = NONE_RIGHT if is_tested and not is_judged else ""
    elif candidate.clip_score is None:
        why = NOTHING_JUDGED
    else:
        why = NO_DETECTOR if is_tested or margins.worst_prompts is not None else ""
    return [Check(QUALITY, False, 0.0, None, detail=why, decided=False)] if why else []


def _of_variants(limit: float, again: Mapping[str, float]) -> Check:
    losers = sorted((change, slug) for slug, change in again.items() if change < limit)
    if not losers:
        return Check("each variant", True, limit, min(again.values(), default=None))
    named = ", ".join(f"{slug} {change:+.2f}" for change, slug in losers[:5])
    return Check("each variant", False, limit, losers[0][0], detail=f"{len(losers)} lose: {named}.")


def _costs(recipe: GateRecipe, costs: Costs, active: Costs) -> list[Check]:
    size = costs.size_bytes / active.size_bytes
    found = [Check("bytes to active", size <= recipe.larger, recipe.larger, size)]
    if costs.seconds is not None and active.seconds is not None:
        seconds = costs.seconds / active.seconds
        found.append(Check("seconds to active", seconds <= recipe.slower, recipe.slower, seconds))
    return found


def _absolute(recipe: GateRecipe, costs: Costs) -> list[Check]:
    """Return the checks of the absolute limits, for the costs that were measured."""
    limits = (
        ("bytes", costs.size_bytes, recipe.most_bytes),
        ("seconds", costs.seconds, recipe.most_seconds),
        ("memory", costs.memory_bytes, recipe.most_memory),
    )
    return [
        Check(f"{name} at most", value <= most, most, value)
        for name, value, most in limits
        if value is not None and most is not None
    ]


def changes(candidate: Measured, other: Measured) -> dict[str, float]:
    """Return the change of the share of right pictures, by slug, for common prompts that state something."""
    found: dict[str, float] = {}
    if candidate.right is None or other.right is None:
        return found
    ours, theirs = candidate.right.mean(1), other.right.mean(1)
    places = {slug: row for row, slug in enumerate(other.slugs)}
    for row, slug in enumerate(candidate.slugs):
        if slug in places:
            change = float(ours[row] - theirs[places[slug]])
            if change == change:
                found[slug] = change
    return found


def _changes(candidate: Measured, teacher: Measured, active: Measured | None) -> dict[str, float]:
    to_active = {} if active is None else changes(candidate, active)
    return changes(candidate, teacher) | to_active


def _pair(ours: Tensor | None, theirs: Tensor | None) -> tuple[Tensor, Tensor] | None:
    return (
        None
        if ours is None or theirs is None
        else (ours.to(torch.float64), theirs.to(torch.float64))
    )
