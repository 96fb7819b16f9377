"""Verdict of a design: whether its choice is better than the student in service, on the same prompts."""

from dataclasses import dataclass

import torch

from distillation.design.candidates import Costs, Judged
from distillation.evaluation import means
from distillation.evaluation.noninferiority import MIN_PROMPTS
from distillation.image_metrics.distances import Interval

FACTOR = 1.5  # times smaller or faster
POINTS = 2.0  # per cent of the pictures that are right
SLOWER = 1.1  # times; times within it count as equal
RULE = (
    f"It would be better if, at equal quality (at most {POINTS:g} points lost with certainty), it were {FACTOR:g} "
    f"times smaller or faster, or at equal time at least {POINTS:g} points better with an interval above 0."
)


@dataclass(frozen=True)
class Verdict:
    """The choice against the reference.

    smaller, faster: factors; faster is None if a time is unknown. points: share of right pictures, choice − reference,
    in per cent, with its interval from a bootstrap over the prompts, for all candidates that it was chosen from
    together; None if the prompts are not the same or too few.
    """

    smaller: float
    faster: float | None
    points: Interval | None

    @property
    def reasons(self) -> list[str]:
        """Return in which ways the choice is better; none if it is not shown to be."""
        if self.points is None:
            return []
        found = []
        if self.points.low >= -POINTS:
            factors = (("smaller", self.smaller), ("faster", self.faster))
            found += [
                f"{value:.2f} times {name} at equal quality"
                for name, value in factors
                if value is not None and value >= FACTOR
            ]
        is_as_fast = self.faster is not None and self.faster >= 1 / SLOWER
        if is_as_fast and self.points.value >= POINTS and self.points.low > 0:
            found.append(f"{self.points.value:.1f} points better at equal time")
        return found

    @property
    def sentence(self) -> str:
        if self.points is None:
            few = f"fewer than {MIN_PROMPTS} of the same prompts were judged for both"
            return f"Whether it is better is not known: {few}."
        if self.reasons:
            return f"It is better: {' and '.join(self.reasons)}."
        return f"It is not shown to be better. {RULE}"


def of(
    choice: tuple[Costs, Judged], reference: tuple[Costs, Judged], *, chosen_from: int = 1
) -> Verdict:
    """Return the verdict on costs and judged pictures of the choice and the reference.

    chosen_from: number of candidates that were judged by as many pictures. The best of six equal ones seems better than
    the reference in every tenth design; therefore the tails of the interval are divided by it.
    """
    (costs, judged), (other_costs, other) = choice, reference
    return Verdict(
        other_costs.size / costs.size,
        other_costs.time / costs.time if costs.time and other_costs.time else None,
        _points(judged, other, chosen_from),
    )


def _points(judged: Judged, other: Judged, chosen_from: int) -> Interval | None:
    if len(judged.right) != len(other.right) or len(judged.right) < MIN_PROMPTS:
        return None
    ours, theirs = (
        torch.tensor(one.right, dtype=torch.float64) / one.each for one in (judged, other)
    )
    return means.over_prompts(100 * (ours - theirs), together=chosen_from)
