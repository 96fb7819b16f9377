"""Evaluation of canaries: failures compared with the active release, then promotion or withdrawal.

The decision is a pure function of the counts. Runs whose outcome was a canary are updated.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import structlog
from django.conf import settings
from django.db import transaction
from django.db.models import Count, Q

from distillation.models import Run
from distillation.reports import durations
from distillation.runs import policy
from generation.engine.proportions import Share, difference
from generation.errors import GenerationError
from generation.infra import database
from generation.models import Image, Job, Release
from generation.releases import lifecycle as releases

log = structlog.get_logger(__name__)

Outcome, Status = Run.Outcome, Release.Status

# The comparison is repeated every few seconds, and images of one variant fail together: without these limits, canaries
# as good as the active release were withdrawn after 26 and 61 images.
MIN_COUNT = 50  # minimum number of jobs or judged images of each release
MARGIN = 0.05  # minimum difference of the failure rates


@dataclass(frozen=True)
class Counts:
    """Counts since the canary began. ended: succeeded and failed jobs; judged, failing: images."""

    ended: int = 0
    failed: int = 0
    judged: int = 0
    failing: int = 0


def decide(canary: Counts, active: Counts, *, jobs: int) -> tuple[str, str]:
    """Return ("withdraw" | "promote" | "wait", reason). jobs: minimum number the canary must have served.

    It is promoted only by a comparison. While the active release has too few jobs for one, a canary is withdrawn if the
    lower end of the interval of its failure rate is above MARGIN.
    """
    for what, ours, theirs in (
        ("jobs failed", (canary.failed, canary.ended), (active.failed, active.ended)),
        ("judged images failed", (canary.failing, canary.judged), (active.failing, active.judged)),
    ):
        if ours[1] < MIN_COUNT:
            continue
        share = Share(*ours)
        if theirs[1] < MIN_COUNT:
            if share.interval[0] > MARGIN:
                return "withdraw", f"{share.value:.1%} of {share.total} {what}."
            return "wait", f"The active release has {theirs[1]} of {MIN_COUNT} to compare: {what}."
        other = Share(*theirs)
        if difference(share, other)[0] > MARGIN:
            return "withdraw", (
                f"{share.value:.1%} of {share.total} {what}, and {other.value:.1%} of the {other.total} of the active "
                "release."
            )
    needed = max(jobs, MIN_COUNT)
    if canary.ended >= needed:
        return "promote", f"It served {canary.ended} jobs and is not worse than the active release."
    return "wait", f"It has served {canary.ended} of {needed} jobs."


@dataclass(frozen=True)
class Standing:
    """Present figures of a canary and the active release. sentence: result so far; left: sentence on the time left."""

    active: Release
    ours: Counts
    theirs: Counts
    sentence: str
    left: str

    @property
    def rows(self) -> list[tuple[str, str, str]]:
        """Return rows of a table: (name of the count, of the canary, of the active release)."""
        ours, theirs = self.ours, self.theirs
        failed = (_share(ours.failed, ours.ended), _share(theirs.failed, theirs.ended))
        failing = (_share(ours.failing, ours.judged), _share(theirs.failing, theirs.judged))
        return [
            ("jobs ended", str(ours.ended), str(theirs.ended)),
            ("of them failed", *failed),
            ("images judged", str(ours.judged), str(theirs.judged)),
            ("of them failed", *failing),
        ]


def standing(release: Release, *, now: datetime | None = None) -> Standing | None:
    """Return the present figures of the canary; None if the release is not a canary, or none is active."""
    active = releases.active(release.kind)
    begun = release.canary_started_at
    if active is None or not release.canary_percent or begun is None:
        return None
    ours, theirs = count(release, release), count(active, release)
    action, sentence = decide(ours, theirs, jobs=settings.CANARY_JOBS)
    by_person = policy.policies()[-1] == Run.Policy.MANUAL
    if action == "promote" and by_person:
        return Standing(
            active, ours, theirs, sentence, "PROMOTION is manual: a person activates it."
        )
    if action != "wait":
        return Standing(active, ours, theirs, sentence, "It is decided within seconds.")
    missing = max(0, max(settings.CANARY_JOBS, MIN_COUNT) - ours.ended)
    if not ours.ended or not missing:
        return Standing(active, ours, theirs, sentence, "")
    seconds = ((now or database.now()) - begun).total_seconds() * missing / ours.ended
    left = f"At this rate it has enough jobs in about {durations.in_words(seconds)}."
    return Standing(active, ours, theirs, sentence, left)


def _share(part: int, whole: int) -> str:
    if not whole:
        return "–"
    share = Share(part, whole)
    low, high = share.interval
    return f"{part}, {share.value:.1%} ({low:.1%} – {high:.1%})"


def watch() -> None:
    """Promote or withdraw canaries, and update their runs. Idempotent."""
    for release in releases.canaries():
        try:
            _judge(release)
        except GenerationError as error:  # such as missing files: the other canaries are judged
            log.warning("canary_undecided", release=release.name, reason=error.detail)
    _update_runs()


def _judge(release: Release) -> None:
    """Decide on one canary. Nothing is done if a person has decided meanwhile."""
    active = releases.active(release.kind)
    if active is None:
        return
    if _is_newer(active, release):
        action, reason = "end", f"{active.name} was activated meanwhile."
    else:
        ours, theirs = count(release, release), count(active, release)
        action, reason = decide(ours, theirs, jobs=settings.CANARY_JOBS)
        if action == "promote" and policy.policies()[-1] == Run.Policy.MANUAL:
            return  # a person activates it, or ends it
    if action == "wait":
        return
    with transaction.atomic():
        rows = {row.pk: row for row in releases.locked(release.kind)}
        if not (_is_the_same(release, rows) and _is_the_same(active, rows)):
            return
        if action == "promote":
            releases.activate(release, reason=reason)
        elif action == "withdraw":
            releases.reject(release, reason=reason)
        else:
            releases.end_canary(release, reason=reason)
    log.info("canary_decided", release=release.name, action=action, reason=reason)


def _is_newer(active: Release, canary: Release) -> bool:
    """Return whether the active release was activated during the canary, so that the comparison has changed."""
    begun = canary.canary_started_at
    return active.activated_at is not None and begun is not None and active.activated_at > begun


def _is_the_same(release: Release, rows: Mapping[int, Release]) -> bool:
    """Return whether status and activation of the release are unchanged since it was read."""
    row = rows.get(release.pk)
    return row is not None and all(
        getattr(row, field) == getattr(release, field)
        for field in ("status", "canary_percent", "canary_started_at", "activated_at")
    )


def count(release: Release, canary: Release) -> Counts:
    """Count the jobs of `release` created since the canary began.

    Only jobs whose images were computed, and whose release was chosen by the share: clients that name a release would
    bias the comparison by their choice of prompts.
    """
    own = Job.objects.filter(
        release=release,
        created_at__gte=canary.canary_started_at,
        cache=Job.Cache.MISS,
        is_release_named=False,
    )
    jobs = own.aggregate(
        ended=Count("pk", filter=Q(status__in=(Job.Status.SUCCEEDED, Job.Status.FAILED))),
        failed=Count("pk", filter=Q(status=Job.Status.FAILED)),
    )
    images = Image.objects.filter(job__in=own).aggregate(
        judged=Count("pk", filter=Q(is_accepted__isnull=False)),
        failing=Count("pk", filter=Q(is_accepted=False)),
    )
    return Counts(**jobs, **images)


def _update_runs() -> None:
    """Set the outcome of runs whose canary has ended or whose candidate has changed its status."""
    ended = Q(outcome=Outcome.CANARY, release__canary_percent=0)
    moved = Q(outcome=Outcome.CANDIDATE) & (
        Q(release__canary_percent__gt=0) | Q(release__status__in=(*Release.SERVED, Status.REJECTED))
    )
    for run in Run.objects.filter(ended | moved).select_related("release"):
        Run.objects.filter(pk=run.pk, outcome=run.outcome).update(outcome=_became(run))


def _became(run: Run) -> Run.Outcome:
    release = run.release
    if release is None or release.status == Release.Status.REJECTED:
        return Outcome.REJECTED if run.outcome == Outcome.CANDIDATE else Outcome.WITHDRAWN
    if release.canary_percent:
        return Outcome.CANARY
    # Retired: it was activated, and later another one.
    was_served = release.status in (*Release.SERVED, Status.RETIRED)
    return Outcome.PROMOTED if was_served else Outcome.CANDIDATE
