"""Activation without a pause: the workers load a release before it serves."""

import time
from datetime import timedelta

import structlog
from django.db.models.functions import Now

from generation.infra import heartbeat, queues
from generation.models import Release
from generation.releases import lifecycle as releases
from generation.releases import specialists

log = structlog.get_logger(__name__)

LOOK_SECONDS = 0.2
PATIENCE_SECONDS = 20.0  # of a person
PREPARED_SECONDS = 300.0
Status = Release.Status


def activate(
    release: Release, *, patience_seconds: float = PATIENCE_SECONDS, reason: str = ""
) -> Release:
    """Activate the release once every worker has loaded it or the patience is over. Raises ReleaseRefused.

    reason: for the audit log.
    """
    if release.status not in Release.SERVED:
        make_ready(release, patience_seconds=patience_seconds)
    return releases.activate(release, reason=reason)


def activate_specialist(release: Release, *, reason: str = "") -> Release:
    """Serve with the student beside the active one, as `activate` does. Raises ReleaseRefused."""
    of_kind = list(Release.objects.filter(kind=release.kind))
    specialists.check(release, of_kind)  # before the wait; again when it is activated
    if release.status != Status.SPECIALIST:
        make_ready(release, patience_seconds=PATIENCE_SECONDS)
    return specialists.activate(release, reason=reason)


def begin_canary(release: Release, percent: int) -> Release:
    """Begin a canary once every worker has loaded the release or the patience is over. Raises ReleaseRefused."""
    of_kind = list(Release.objects.filter(kind=release.kind))
    releases.check_canary(
        release, percent, of_kind
    )  # before the wait; again when the canary begins
    make_ready(release, patience_seconds=PATIENCE_SECONDS)
    return releases.begin_canary(release, percent)


def prepare(release: Release) -> Release:
    """Mark the release so that the workers load it before it is served. Raises ReleaseRefused."""
    if release.status == Status.REJECTED:
        raise releases.rejected(release)
    releases.verify(release, hashes=False)
    Release.objects.filter(pk=release.pk).update(prepared_at=Now())
    release.refresh_from_db()
    return release


def prepared() -> list[Release]:
    """Return the releases that were prepared within PREPARED_SECONDS and are not served yet."""
    since = Now() - timedelta(seconds=PREPARED_SECONDS)
    waiting = (Status.CANDIDATE, Status.RETIRED)
    return list(Release.objects.filter(prepared_at__gte=since, status__in=waiting).order_by("pk"))


def make_ready(release: Release, *, patience_seconds: float = 60.0) -> None:
    """Wait until every living worker has loaded the release, or the patience is over. Raises ReleaseRefused."""
    prepare(release)
    started = time.monotonic()
    while waiting := _waiting(release):
        if time.monotonic() - started > patience_seconds:
            log.warning("workers_not_ready", release=release.name, workers=waiting)
            return
        time.sleep(LOOK_SECONDS)


def _waiting(release: Release) -> list[str]:
    """Return the names of the living workers that will serve the release and have not loaded it."""
    workers = heartbeat.alive().filter(queue=queues.of_kind(release.kind))
    return list(workers.exclude(loaded__contains=[release.pk]).values_list("name", flat=True))
