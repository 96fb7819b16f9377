"""Quality control: a picture that does not show its variant's text is replaced by one with another seed.

The setting RESULT_JUDGE names a function that returns the judge of a release. A judge that fails never fails a job.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import structlog
from django.conf import settings
from django.db import Error
from django.utils.module_loading import import_string

from generation.engine.request import GenerationResult
from generation.jobs import sampling
from generation.models import Job, PromptVariant, Release

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Finding:
    """Verdict on a picture. failing: failing bits; score: the higher of two rejected pictures is better."""

    is_accepted: bool
    failing: tuple[str, ...]
    score: float
    detector: str


class Judge(Protocol):
    def __call__(
        self, pixels: Sequence[Any], tags: Sequence[Collection[str]]
    ) -> Sequence[Finding]: ...


@dataclass
class BestPicture:
    """Best picture so far for one image of a job. seed: seed of the first picture."""

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
        """Return a seed that no other image or try of the job uses."""
        return self.seed + self.tries * self.job.n

    @property
    def is_wanted_again(self) -> bool:
        at_fault = self.finding is not None and not self.finding.is_accepted
        return at_fault and self.tries < self.job.max_tries

    def is_better_than(self, before: "BestPicture") -> bool:
        if self.finding is None or before.finding is None:
            return False
        return self.finding.is_accepted or self.finding.score > before.finding.score


def tries(variant: PromptVariant, release: Release) -> int:
    """Return the maximum of pictures per image, from the variant, else the release, else the setting MAX_TRIES."""
    for given in (variant.max_tries, release.max_tries):
        if given is not None:
            return given
    return settings.MAX_TRIES


def improve(
    pictures: Sequence[BestPicture],
    generate: Callable[[Sequence[BestPicture]], Sequence[GenerationResult]],
) -> None:
    """Judge images whose job allows tries, and replace failing ones in place until they pass or tries run out.

    If all pictures fail, the best one stays. generate: returns a picture of `next_seed` for each given image.
    """
    judge([one for one in pictures if one.job.max_tries > 1])
    failing = [one for one in pictures if one.is_wanted_again]
    while failing:
        results = generate(failing)
        others = [
            BestPicture(one.job, one.index, result)
            for one, result in zip(failing, results, strict=True)
        ]
        judge(others)
        for one, other in zip(failing, others, strict=True):
            one.tries += 1
            if other.is_better_than(one):
                one.result, one.finding = other.result, other.finding
        # An unjudged picture was canceled, or the judge failed: the previous one stays.
        failing = [
            one
            for one, other in zip(failing, others, strict=True)
            if one.is_wanted_again and other.finding is not None
        ]


def judge_rest(pictures: Sequence[BestPicture]) -> None:
    """Judge, in place, images that are flagged before delivery, and a sample of the others to measure the release."""
    rest = [one for one in pictures if one.finding is None]
    measured = [one for one in rest if not one.job.max_tries]
    # All pictures of a batch have the same release.
    share = judged_share(measured[0].job.release) if measured else 0.0
    judge(
        [one for one in rest if one.job.max_tries or sampling.is_in_share(str(one.job.id), share)]
    )


def judged_share(release: Release) -> float:
    """Return the share of the release's jobs that is judged to measure it.

    All jobs of a canary, and as many of the active release beside it: the two are compared by these verdicts.
    """
    if release.canary_percent:
        return 1.0
    share: float = settings.JUDGED_SHARE
    if release.status != Release.Status.ACTIVE or not settings.RESULT_JUDGE:
        return share
    tried = Release.objects.filter(kind=release.kind, canary_percent__gt=0)
    try:
        percent = tried.values_list("canary_percent", flat=True).first() or 0
    except Error as error:  # the finished images are kept until PostgreSQL answers
        log.warning("canary_not_read", error=str(error))
        return share
    return min(1.0, max(share, percent / (100 - percent)))


def judge(pictures: Sequence[BestPicture]) -> None:
    """Set the finding of each image that has pixels, if there is a judge."""
    shown = [one for one in pictures if one.result.pixels is not None]
    if not shown or not settings.RESULT_JUDGE:
        return
    try:
        # All pictures of a batch have the same release.
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
