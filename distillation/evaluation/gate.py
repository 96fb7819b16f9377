"""The gate between a candidate and the active release: named checks, each with its limit.

The limits are part of a recipe, so they are set before anything is measured. Intervals and verdicts are those of
`noninferiority`; checks without an interval compare single numbers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from distillation.evaluation import noninferiority
from distillation.evaluation.measured import Measured
from distillation.evaluation.noninferiority import INCONCLUSIVE, NON_INFERIOR, NOT_MEASURED, Margins


@dataclass(frozen=True)
class GateRecipe:
    """to_teacher, to_active: margins that the lower end of the candidate's interval must reach.

    variant: the least change of the share of right pictures of any one variant, against the active release if that
    covers it, otherwise against the teacher. Variants that lose more are measured again with `second_look` new seeds,
    and only these count: among hundreds of variants some lose by chance.
    slower, larger: the limits of seconds per picture and bytes, as multiples of the active release's.
    """

    to_teacher: Margins = field(
        default_factory=lambda: Margins(attributes_right=0.93, worst_prompts=None)
    )
    to_active: Margins = field(
        default_factory=lambda: Margins(
            attributes_right=0.95,
            diversity=0.9,
            clip_score=-0.5,
            worst_prompts=None,
            sharpness=0.95,
        )
    )
    variant: float | None = -0.6
    second_look: int = 12
    slower: float = 1.5
    larger: float = 1.5

    def __post_init__(self) -> None:
        if self.variant is not None and not -1 <= self.variant < 0:
            raise ValueError(f"variant: a loss from -1 to below 0, not {self.variant}.")
        if self.second_look < 1:
            raise ValueError(f"second_look: at least 1 seed, not {self.second_look}.")
        for name in ("slower", "larger"):
            if not getattr(self, name) >= 1:
                raise ValueError(f"{name}: at least 1, not {getattr(self, name)}.")


@dataclass(frozen=True)
class Costs:
    """Costs of a release: seconds per picture (None = not measured) and bytes on disk."""

    seconds: float | None
    size_bytes: int


@dataclass(frozen=True)
class Check:
    """found: the estimate; low: the lower end of its one-sided 95 % interval, if there is one.

    decided: False if the measurements are too few or too uncertain to tell whether the limit is reached.
    """

    name: str
    passed: bool
    limit: float
    found: float | None
    low: float | None = None
    detail: str = ""
    decided: bool = True


@dataclass(frozen=True)
class Gate:
    passed: bool
    checks: tuple[Check, ...]

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
    costs: Costs,
    active_costs: Costs | None,
    again: Mapping[str, float],
) -> Gate:
    """Check a candidate. again: the changes of the suspects, measured a second time.

    active: of the prompts that it covers; None if there is none. Without any judgement of quality the gate is not
    passed: a person must look at the pictures.
    """
    checks = _against("teacher", recipe.to_teacher, candidate, teacher)
    if active is not None:
        shared = tuple(slug for slug in candidate.slugs if slug in set(active.slugs))
        if shared:
            checks += _against(
                "active", recipe.to_active, candidate.take(shared), active.take(shared)
            )
    if not checks:
        checks.append(
            Check(
                "quality",
                False,
                0.0,
                None,
                detail="No judge rated the pictures. Look at them.",
                decided=False,
            )
        )
    if recipe.variant is not None and candidate.right is not None:
        checks.append(_of_variants(recipe.variant, again))
    if active_costs is not None:
        checks += _costs(recipe, costs, active_costs)
    return Gate(all(check.passed for check in checks), tuple(checks))


def _against(name: str, margins: Margins, candidate: Measured, other: Measured) -> list[Check]:
    found = noninferiority.judge(
        margins,
        right=_pair(candidate.right, other.right),
        spread=(candidate.spread, other.spread),
        clip_score=_pair(candidate.clip_score, other.clip_score),
        gradient=_pair(candidate.gradient, other.gradient),
    )
    return [
        Check(
            f"{verdict.measure} to {name}",
            verdict.outcome == NON_INFERIOR,
            verdict.margin,
            verdict.estimate,
            verdict.low,
            ""
            if verdict.prompts >= noninferiority.FEWEST
            else f"{verdict.prompts} prompts are too few to decide; {noninferiority.FEWEST} are enough.",
            verdict.outcome != INCONCLUSIVE,
        )
        for verdict in found
        if verdict.outcome != NOT_MEASURED
    ]


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
