"""One distillation worker: a process that executes the slices of runs, and reads and judges pictures of sources.

Loads no tensor library while it is idle.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import structlog
from django.conf import settings
from django.utils import timezone

from distillation import notifications
from distillation.examples import lifecycle as examples
from distillation.models import Run
from distillation.runs import lifecycle as runs
from distillation.runs.lease import Holding
from generation.errors import GenerationError
from generation.infra import heartbeat
from generation.infra.redis_client import attempt

log = structlog.get_logger(__name__)

EXIT_DEAF = 70


holding = Holding()
_last_run = time.monotonic()
_is_busy = False  # it was told something, and has no run yet


def begin() -> None:
    """Show the heartbeat."""
    global _last_run
    heartbeat.begin("distillation", device=settings.DEVICE, tick=_tick)
    _last_run = time.monotonic()


@contextmanager
def _busy() -> Iterator[None]:
    """Loading the tensor libraries alone may take longer than the patience with a worker that hears nothing."""
    global _is_busy, _last_run
    _is_busy = True
    try:
        yield
    finally:
        _is_busy, _last_run = False, time.monotonic()


@_busy()
def run() -> None:
    """A slice of the oldest queued run, if there is one, and those after it; then a message for the next run."""
    _curate()  # first: it is short beside a run, which may use what it accepts
    if heartbeat.stopping.is_set() or not Run.objects.filter(status=Run.Status.QUEUED).exists():
        return
    # The tensor libraries: an idle worker does without. Before the claim, since no lease is renewed while they load.
    from distillation.runs import slices

    claimed = runs.claim(settings.WORKER_NAME)
    if claimed is not None:
        holding.take(claimed[1])
        try:
            slices.execute(claimed[0], holding)
        finally:
            holding.let_go()
        notifications.wake()  # Celery gets the thread back for a moment, so that it sees signals


@_busy()
def curate() -> None:
    """Read the sources that wait, then judge what has no verdict of the active detector."""
    _curate()


def _curate() -> None:
    if heartbeat.stopping.is_set() or not examples.waiting().exists():
        return
    from distillation.detector.errors import DetectorUnusable
    from distillation.examples import ingestion, verdicts

    try:
        for source in examples.waiting():
            try:
                ingestion.ingest(source, is_over=heartbeat.stopping.is_set)
            except GenerationError:
                continue  # its row says why
        verdicts.judge_all(is_over=heartbeat.stopping.is_set)
    except (GenerationError, DetectorUnusable) as error:
        log.error("examples_not_judged", error=str(error))


# --- in the heartbeat thread ----------------------------------------------------------------------
def _tick() -> None:
    """Renew the lease, notice a run that is ours no more, notice that no message reaches us."""
    global _last_run
    if holding.hold is not None:
        holding.keep()
    elif _is_busy:
        _last_run = time.monotonic()
    elif not attempt(lambda redis: redis.ping(), False):
        _last_run = time.monotonic()  # nobody can hear now; the patience begins when Redis is back
    elif time.monotonic() - _last_run > settings.DEAF_SECONDS and _waits():
        log.error("worker_deaf", worker=settings.WORKER_NAME)
        os._exit(EXIT_DEAF)  # as the generation worker does, and for the same reason


def _waits() -> bool:
    """Whether a run has been queued for long beside this idle worker."""
    before = timezone.now() - timedelta(seconds=settings.DEAF_SECONDS)
    return Run.objects.filter(status=Run.Status.QUEUED, created_at__lt=before).exists()
