"""Control of results: a picture that does not show what its variant says is made again with the next seed.

Knows no detector: the setting RESULT_JUDGE names what finds the judge of a release. Nothing here may cost a job: a
judge that fails is as good as none.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import structlog
from django.conf import settings
from django.utils.module_loading import import_string

from generation.engine.request import GenerationResult
from generation.jobs import sampling
from generation.models import Job, PromptVariant, Release

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Finding:
    """failing: the bits at fault; score: of two pictures at fault the one with the higher score is better."""

    is_accepted: bool
    failing: tuple[str, ...]
    score: float
    detector: str


class Judge(Protocol):
    def __call__(
        self, pixels: Sequence[Any], tags: Sequence[Collection[str]]
    ) -> Sequence[Finding]: ...


@dataclass
class Made:
    """The best picture so far for one image of a job. seed: of its first picture."""

    job: Job
    index: int
    result: GenerationResult
    tries: int = 1
    finding: Finding | None = None
    seed: int = field(init=False)

    def __post_init__(self) -> None:
        self.seed = self.result.request.seed

    @property
    def next_seed(self) -> int:
        """Beyond the seeds of the job's other images and of their tries."""
        return self.seed + self.tries * self.job.n

    @property
    def is_wanted_again(self) -> bool:
        at_fault = self.finding is not None and not self.finding.is_accepted
        return at_fault and self.tries < self.job.max_tries

    def is_better_than(self, before: "Made") -> bool:
        if self.finding is None or before.finding is None:
            return False
        return self.finding.is_accepted or self.finding.score > before.finding.score


def tries(variant: PromptVariant, release: Release) -> int:
    """Pictures that may be made for an image: the variant decides, else the release, else the setting MAX_TRIES."""
    for given in (variant.max_tries, release.max_tries):
        if given is not None:
            return given
    return settings.MAX_TRIES


def improve(
    made: Sequence[Made], generate: Callable[[Sequence[Made]], Sequence[GenerationResult]]
) -> None:
    """Judge those whose job allows another try, and make what failed again, in place, until it passes or the tries are
    used up; of pictures that all fail the best stays. generate: one picture for each, with its `next_seed`."""
    judge([one for one in made if one.job.max_tries > 1])
    failing = [one for one in made if one.is_wanted_again]
    while failing:
        results = generate(failing)
        others = [
            Made(one.job, one.index, result) for one, result in zip(failing, results, strict=True)
        ]
        judge(others)
        for one, other in zip(failing, others, strict=True):
            one.tries += 1
            if other.is_better_than(one):
                one.result, one.finding = other.result, other.finding
        # What was not judged was canceled, or its judge failed: the picture before it stays.
        failing = [
            one
            for one, other in zip(failing, others, strict=True)
            if one.is_wanted_again and other.finding is not None
        ]


def judge_rest(made: Sequence[Made]) -> None:
    """Judge, in place, what is to be flagged before it is delivered, and a sample of the rest, so that it is known how
    a release does."""
    judge(
        [
            one
            for one in made
            if one.finding is None and (one.job.max_tries or is_in_sample(one.job))
        ]
    )


def is_in_sample(job: Job) -> bool:
    """By a hash of the job's id; all of a canary."""
    if job.release.canary_percent:
        return True
    return sampling.is_in_share(str(job.id), settings.JUDGED_SHARE)


def judge(made: Sequence[Made]) -> None:
    """Set the finding of each that has pixels, if there is a judge."""
    shown = [one for one in made if one.result.pixels is not None]
    if not shown or not settings.RESULT_JUDGE:
        return
    try:
        # One release makes the pictures of a batch.
        ask: Judge | None = import_string(settings.RESULT_JUDGE)(shown[0].job.release)
        if ask is None:
            return
        findings = ask(
            [one.result.pixels for one in shown], [one.job.variant.tags for one in shown]
        )
        for one, finding in zip(shown, findings, strict=True):
            one.finding = finding
    except Exception:
        log.exception("results_not_judged", images=len(shown))
