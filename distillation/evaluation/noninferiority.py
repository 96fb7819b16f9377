"""Non-inferiority of a student to its teacher within margins set beforehand.

The pictures of one prompt are similar, so the bootstrap draws prompts, not pictures; it is paired, because both
releases made the same prompts from the same noise. A student is *non-inferior* if the lower end of the
one-sided 95 % interval reaches the margin, *inferior* if even the upper one-sided end stays below, else *inconclusive*.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, isnan, nan

import torch
from torch import Tensor

from distillation.evaluation.gate_limits import MAX_SEEDS

NON_INFERIOR, INFERIOR, INCONCLUSIVE = "non-inferior", "inferior", "inconclusive"
NOT_MEASURED = "not measured"
WORST_FIRST = (INFERIOR, INCONCLUSIVE, NOT_MEASURED, NON_INFERIOR)
TAIL = 0.05  # beyond each end
MIN_PROMPTS = 20  # prompts: the percentile interval of fewer is too narrow to trust
WORST = 0.1  # the share of prompts with the greatest losses
RESAMPLES = 4000
CHUNK = 2**24  # values of one draw in memory at once

Statistic = Callable[[Sequence[Tensor]], Tensor]  # columns [R, P] → [R]


@dataclass(frozen=True)
class Margins:
    """The least acceptable value of each measure; None = not tested.

    attributes_right: share of pictures with all attributes right, student ÷ teacher.
    diversity: mean distance between the pictures of one prompt, student ÷ teacher.
    clip_score: 100 × cosine of picture and text, student − teacher.
    sharpness: mean gradient of the pictures (`sharpness.gradient`), student ÷ teacher.
    worst_prompts: share of pictures with all attributes right, student − teacher, of the tenth of prompts with the
    greatest losses. They are selected by one half of the seeds and measured by the other: otherwise chance would
    select them.
    """

    attributes_right: float | None = 0.97
    diversity: float | None = 0.8
    clip_score: float | None = -1.0
    worst_prompts: float | None = -0.1
    sharpness: float | None = 0.85

    def __post_init__(self) -> None:
        for name in ("attributes_right", "diversity", "sharpness"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1.5:
                raise ValueError(f"{name}: a ratio above 0 and up to 1.5, not {value}.")
        for name, most in (("clip_score", 100), ("worst_prompts", 1)):
            value = getattr(self, name)
            if value is not None and not -most <= value <= most:
                raise ValueError(f"{name}: a difference of at most {most}, not {value}.")


@dataclass(frozen=True)
class Verdict:
    """One measure against its margin. low, high: the ends of one-sided 95 % intervals."""

    measure: str  # a field of Margins
    is_ratio: bool  # student ÷ teacher, else student − teacher
    margin: float
    estimate: float | None
    low: float | None
    high: float | None
    prompts: int
    outcome: str


@dataclass(frozen=True)
class Decisive:
    """Number of seeds per prompt that would decide a verdict, and the outcome, if the estimate does not change."""

    seeds: int
    outcome: str


def decisive(verdict: Verdict, seeds: int) -> Decisive | None:
    """Return the seeds that would decide an inconclusive verdict measured with `seeds`; None if seeds alone cannot.

    The width of the interval shrinks as 1 ÷ √seeds, except for the part caused by the choice of prompts, so the number
    is a lower bound. No number of seeds decides with too few prompts or an estimate at the margin.
    """
    if verdict.outcome != INCONCLUSIVE or verdict.prompts < MIN_PROMPTS:
        return None
    if verdict.estimate is None or verdict.low is None or verdict.high is None:
        return None
    distance = verdict.estimate - verdict.margin
    end = verdict.low if distance > 0 else verdict.high
    if not distance:
        return None
    needed = seeds * ((end - verdict.estimate) / distance) ** 2
    if needed > MAX_SEEDS:
        return None
    return Decisive(max(seeds + 1, ceil(needed)), NON_INFERIOR if distance > 0 else INFERIOR)


def each_prompt(least: float, right: tuple[Tensor, Tensor]) -> Verdict:
    """Return the verdict on single prompts: the greatest loss of the share of right pictures, student − teacher.

    Among hundreds of prompts some lose by chance, so a loss beyond the limit is inconclusive: measure these again.
    """
    change = _means(right)[0] - _means(right)[1]
    change = change[change.isfinite()]
    if not len(change):
        return Verdict("each_prompt", False, least, None, None, None, 0, NOT_MEASURED)
    lowest = float(change.min())
    found = NON_INFERIOR if lowest >= least else INCONCLUSIVE
    return Verdict("each_prompt", False, least, lowest, None, None, len(change), found)


def judge(
    margins: Margins,
    *,
    right: tuple[Tensor, Tensor] | None = None,
    spread: tuple[Tensor, Tensor] | None = None,
    clip_score: tuple[Tensor, Tensor] | None = None,
    gradient: tuple[Tensor, Tensor] | None = None,
    tail: float = TAIL,
) -> tuple[Verdict, ...]:
    """Return a verdict for each margin that is not None, the worst first. Pairs are of student and teacher.

    right: all attributes are right, 0 or 1, [P, S]; not a number where a prompt states nothing. spread: the mean
    distance within each prompt, [P]. clip_score, gradient [P, S]. tail: the share beyond each end of the intervals.
    """
    verdicts = []

    def test(measure: str, is_ratio: bool, statistic: Statistic, columns: list[Tensor]) -> None:
        margin = getattr(margins, measure)
        if margin is not None:
            verdicts.append(_verdict(measure, is_ratio, margin, statistic, columns, tail))

    test("attributes_right", True, _ratio, _means(right))
    test("worst_prompts", False, _worst, _halves(right))
    test("diversity", True, _ratio, [] if spread is None else list(spread))
    test("sharpness", True, _ratio, _means(gradient))
    test("clip_score", False, _difference, _means(clip_score))
    return tuple(sorted(verdicts, key=lambda verdict: WORST_FIRST.index(verdict.outcome)))


def overall(verdicts: Sequence[Verdict]) -> str:
    """Return the worst outcome. A margin that was not measured makes it inconclusive."""
    outcomes = [v.outcome for v in verdicts] or [NOT_MEASURED]
    worst = min(outcomes, key=WORST_FIRST.index)
    return INCONCLUSIVE if worst == NOT_MEASURED else worst


# --- statistics of prompts, for all resamples at once ---------------------------------------------
def _ratio(columns: Sequence[Tensor]) -> Tensor:
    student, teacher = columns
    return student.mean(1) / teacher.mean(1)


def _difference(columns: Sequence[Tensor]) -> Tensor:
    student, teacher = columns
    return (student - teacher).mean(1)


def _worst(columns: Sequence[Tensor]) -> Tensor:
    """Return the mean change of the tenth that loses most, selected by half of the seeds, measured by the rest."""
    first, second = columns
    return (_of_lowest(first, second) + _of_lowest(second, first)) / 2


def _of_lowest(chooser: Tensor, values: Tensor) -> Tensor:
    """Return the mean of the values where the chooser is in its lowest tenth; ties at its edge count in part."""
    count = max(1, round(WORST * chooser.shape[1]))
    edge = chooser.kthvalue(count, dim=1, keepdim=True).values
    below = (chooser < edge).double()
    equal = (chooser == edge).double()
    weights = below + equal * (count - below.sum(1, keepdim=True)) / equal.sum(1, keepdim=True)
    return (weights * values).sum(1) / count


def _means(pair: tuple[Tensor, Tensor] | None) -> list[Tensor]:
    return [] if pair is None else [values.double().mean(1) for values in pair]


def _halves(pair: tuple[Tensor, Tensor] | None) -> list[Tensor]:
    """Return the change in the even seeds and in the odd ones, [P] each."""
    if pair is None or pair[0].shape[1] < 2:
        return []
    change = pair[0].double() - pair[1].double()
    return [change[:, 0::2].mean(1), change[:, 1::2].mean(1)]


# --- the bootstrap --------------------------------------------------------------------------------
def _verdict(
    measure: str,
    is_ratio: bool,
    margin: float,
    statistic: Statistic,
    columns: list[Tensor],
    tail: float = TAIL,
) -> Verdict:
    if columns:
        whole = torch.stack([column.isfinite() for column in columns]).all(0)
        columns = [column[whole].double() for column in columns]
    prompts = len(columns[0]) if columns else 0
    estimate = float(statistic([column[None] for column in columns])) if prompts else nan
    if isnan(estimate) or estimate in (float("inf"), float("-inf")):
        return Verdict(measure, is_ratio, margin, None, None, None, prompts, NOT_MEASURED)
    generator = torch.Generator().manual_seed(0)
    drawn = []
    step = max(1, CHUNK // prompts)
    for start in range(0, RESAMPLES, step):
        size = (min(step, RESAMPLES - start), prompts)
        rows = torch.randint(prompts, size, generator=generator)
        drawn.append(statistic([column[rows] for column in columns]))
    values = torch.cat(drawn)
    values = values[values.isfinite()]  # a resample may contain no right picture of the teacher
    low, high = values.quantile(torch.tensor([tail, 1 - tail], dtype=values.dtype)).tolist()
    return Verdict(
        measure, is_ratio, margin, estimate, low, high, prompts, outcome(low, high, margin, prompts)
    )


def outcome(low: float, high: float, margin: float, prompts: int) -> str:
    """Return the outcome of an interval against a margin; fewer than MIN_PROMPTS prompts never decide."""
    if prompts < MIN_PROMPTS:
        return INCONCLUSIVE
    if low >= margin:
        return NON_INFERIOR
    return INFERIOR if high < margin else INCONCLUSIVE
