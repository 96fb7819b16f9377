"""Serves a release without a pause: the workers load it first. Knows no networks."""

import time
from datetime import timedelta

import structlog
from django.conf import settings
from django.utils import timezone

from generation.infra import queues
from generation.models import Release, Worker
from generation.releases import lifecycle as releases

log = structlog.get_logger(__name__)

LOOK_SECONDS = 0.2


def activate(release: Release, *, patience_seconds: float = 20.0) -> Release:
    """`releases.activate`, when every worker has the release ready or the patience is over. Raises ReleaseRefused."""
    if release.status != Release.Status.ACTIVE:
        make_ready(release, patience_seconds=patience_seconds)
    return releases.activate(release)


def begin_canary(release: Release, percent: int, *, patience_seconds: float = 20.0) -> Release:
    """`releases.begin_canary`, once the workers have it ready or the patience is over. Raises ReleaseRefused."""
    make_ready(release, patience_seconds=patience_seconds)
    return releases.begin_canary(release, percent)


def make_ready(release: Release, *, patience_seconds: float = 60.0) -> None:
    """Return when every living worker has loaded the release, or the patience is over. Raises ReleaseRefused."""
    releases.prepare(release)
    started = time.monotonic()
    while waiting := _waiting(release):
        if time.monotonic() - started > patience_seconds:
            log.warning("workers_not_ready", release=release.name, workers=waiting)
            return
        time.sleep(LOOK_SECONDS)


def _waiting(release: Release) -> list[str]:
    """Names of the living workers that will serve it and do not have it."""
    alive = timezone.now() - timedelta(seconds=settings.WORKER_STALE_SECONDS)
    workers = Worker.objects.filter(queue=queues.of_kind(release.kind), heartbeat_at__gte=alive)
    return list(workers.exclude(loaded__contains=[release.pk]).values_list("name", flat=True))
