"""Evaluation of canaries: failures compared with the active release, then promotion or withdrawal.

The decision is a pure function of the counts. Runs whose outcome was a canary are updated.
"""

from dataclasses import dataclass

import structlog
from django.conf import settings
from django.db.models import Count, Q

from distillation.evaluation.proportions import Share, difference
from distillation.models import Run
from generation.models import Image, Job, Release
from generation.releases import lifecycle as releases

log = structlog.get_logger(__name__)

# The comparison is repeated every few seconds, and images of one variant fail together: without these limits, canaries
# as good as the active release were withdrawn after 26 and 61 images.
FEWEST = 50  # minimum number of jobs or judged images of each release
MARGIN = 0.05  # minimum difference of the failure rates


@dataclass(frozen=True)
class Counts:
    """Counts since the canary began. ended: succeeded and failed jobs; judged, failing: images."""

    ended: int = 0
    failed: int = 0
    judged: int = 0
    failing: int = 0


def decide(canary: Counts, active: Counts, *, jobs: int) -> tuple[str, str]:
    """Return ("withdraw" | "promote" | "wait", reason). jobs: minimum number the canary must have served."""
    for what, ours, theirs in (
        ("jobs failed", (canary.failed, canary.ended), (active.failed, active.ended)),
        ("judged images failed", (canary.failing, canary.judged), (active.failing, active.judged)),
    ):
        if min(ours[1], theirs[1]) < FEWEST:
            continue
        share, other = Share(*ours), Share(*theirs)
        if difference(share, other)[0] > MARGIN:
            return "withdraw", (
                f"{share.value:.1%} of {share.total} {what}, and {other.value:.1%} of the {other.total} of the active "
                "release."
            )
    if canary.ended >= jobs:
        return "promote", f"It served {canary.ended} jobs and is not worse than the active release."
    return "wait", f"It has served {canary.ended} of {jobs} jobs."


def watch() -> None:
    """Promote or withdraw canaries, and update their runs. Idempotent."""
    for release in releases.canaries():
        active = releases.active(release.kind)
        if active is None:
            continue
        ours, theirs = count(release, release), count(active, release)
        action, reason = decide(ours, theirs, jobs=settings.CANARY_JOBS)
        if action == "promote":
            releases.activate(release, reason=reason)
        elif action == "withdraw":
            releases.reject(release, reason=reason)
        else:
            continue
        log.info("canary_decided", release=release.name, action=action, reason=reason)
    _tell_runs()


def count(release: Release, canary: Release) -> Counts:
    """Count the jobs of `release` created since the canary began."""
    own = Job.objects.filter(release=release, created_at__gte=canary.canary_started_at)
    jobs = own.aggregate(
        ended=Count("pk", filter=Q(status__in=(Job.Status.SUCCEEDED, Job.Status.FAILED))),
        failed=Count("pk", filter=Q(status=Job.Status.FAILED)),
    )
    images = Image.objects.filter(job__in=own).aggregate(
        judged=Count("pk", filter=Q(is_accepted__isnull=False)),
        failing=Count("pk", filter=Q(is_accepted=False)),
    )
    return Counts(**jobs, **images)


def _tell_runs() -> None:
    """Set the outcome of runs whose canary has ended, by whatever decision."""
    for run in Run.objects.filter(outcome=Run.Outcome.CANARY, release__canary_percent=0):
        is_served = run.release is not None and run.release.status == Release.Status.ACTIVE
        became = Run.Outcome.PROMOTED if is_served else Run.Outcome.WITHDRAWN
        Run.objects.filter(pk=run.pk, outcome=Run.Outcome.CANARY).update(outcome=became)
