"""Activation without interruption: the workers load a release before it serves."""

import time
from datetime import timedelta

import structlog
from django.db.models.functions import Now

from generation.infra import heartbeat, queues
from generation.models import Release
from generation.releases import lifecycle as releases
from generation.releases import specialists

log = structlog.get_logger(__name__)

POLL_SECONDS = 0.2
PATIENCE_SECONDS = 20.0  # how long a person waits
PREPARED_SECONDS = 300.0
Status = Release.Status


def activate(release: Release, *, reason: str = "") -> Release:
    """Activate the release when every worker has loaded it, or after PATIENCE_SECONDS. Raises ReleaseRefused.

    reason: for the audit log.
    """
    if release.status not in Release.SERVED:
        make_ready(release, patience_seconds=PATIENCE_SECONDS)
    return releases.activate(release, reason=reason)


def activate_specialist(release: Release, *, reason: str = "") -> Release:
    """Make the student a specialist, with the wait of `activate`. Raises ReleaseRefused."""
    of_kind = list(Release.objects.filter(kind=release.kind))
    specialists.check(release, of_kind)  # before the wait, and again at the activation
    if release.status != Status.SPECIALIST:
        make_ready(release, patience_seconds=PATIENCE_SECONDS)
    return specialists.activate(release, reason=reason)


def begin_canary(release: Release, percent: int) -> Release:
    """Start a canary when every worker has loaded the release, or after PATIENCE_SECONDS. Raises ReleaseRefused."""
    of_kind = list(Release.objects.filter(kind=release.kind))
    releases.check_canary(release, percent, of_kind)  # before the wait, and again at the start
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
    """Return the releases that were prepared within the last PREPARED_SECONDS and are not in service yet."""
    since = Now() - timedelta(seconds=PREPARED_SECONDS)
    waiting = (Status.CANDIDATE, Status.RETIRED)
    return list(Release.objects.filter(prepared_at__gte=since, status__in=waiting).order_by("pk"))


def make_ready(release: Release, *, patience_seconds: float = 60.0) -> None:
    """Wait until every live worker has loaded the release, or for patience_seconds. Raises ReleaseRefused."""
    prepare(release)
    started = time.monotonic()
    while waiting := _waiting(release):
        if time.monotonic() - started > patience_seconds:
            log.warning("workers_not_ready", release=release.name, workers=waiting)
            return
        time.sleep(POLL_SECONDS)


def _waiting(release: Release) -> list[str]:
    """Return the names of the live workers that will serve the release and have not loaded it."""
    workers = heartbeat.alive().filter(queue=queues.of_kind(release.kind))
    return list(workers.exclude(loaded__contains=[release.pk]).values_list("name", flat=True))
