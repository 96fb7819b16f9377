"""One distillation worker: a process that executes the slices of runs. Loads no tensor library while it is idle."""

import os
import time
from datetime import timedelta

import structlog
from django.conf import settings
from django.utils import timezone

from distillation import hints, runs
from distillation.holding import Holding
from distillation.models import Run
from generation import presence
from generation.connections import attempt

log = structlog.get_logger(__name__)

EXIT_DEAF = 70


holding = Holding()
_last_run = time.monotonic()


def begin() -> None:
    """Show the heartbeat."""
    global _last_run
    presence.begin("distillation", device=settings.DEVICE, tick=_tick)
    _last_run = time.monotonic()


def run() -> None:
    """A slice of the oldest queued run, if there is one, and those after it; then a message for the next run."""
    global _last_run
    _last_run = time.monotonic()
    if presence.stopping.is_set() or not Run.objects.filter(status=Run.Status.QUEUED).exists():
        return
    # The tensor libraries: an idle worker does without. Before the claim, since no lease is renewed while they load.
    from distillation import slices

    claimed = runs.claim(settings.WORKER_NAME)
    if claimed is not None:
        holding.take(claimed[1])
        try:
            slices.execute(claimed[0], holding)
        finally:
            holding.let_go()
        hints.wake()  # Celery gets the thread back for a moment, so that it sees signals
    _last_run = time.monotonic()


# --- in the heartbeat thread ----------------------------------------------------------------------
def _tick() -> None:
    """Renew the lease, notice a run that is ours no more, notice that no message reaches us."""
    global _last_run
    if holding.hold is not None:
        holding.keep()
    elif not attempt(lambda redis: redis.ping(), False):
        _last_run = time.monotonic()  # nobody can hear now; the patience begins when Redis is back
    elif time.monotonic() - _last_run > settings.DEAF_SECONDS and _waits():
        log.error("worker_deaf", worker=settings.WORKER_NAME)
        os._exit(EXIT_DEAF)  # as the generation worker does, and for the same reason


def _waits() -> bool:
    """Whether a run has been queued for long beside this idle worker."""
    before = timezone.now() - timedelta(seconds=settings.DEAF_SECONDS)
    return Run.objects.filter(status=Run.Status.QUEUED, created_at__lt=before).exists()
