"""Distillation worker: the process that executes slices of runs, and reads and judges pictures of sources.

It loads no tensor library while it is idle.
"""

import structlog
from django.conf import settings

from distillation import notifications
from distillation.examples import lifecycle as examples
from distillation.models import Run
from distillation.runs import lifecycle as runs
from distillation.runs.lease import Holding
from generation.errors import GenerationError
from generation.infra import heartbeat
from generation.infra.watchdog import Watchdog

log = structlog.get_logger(__name__)

holding = Holding()


def begin() -> None:
    """Begin the heartbeat, which renews the lease of a run."""
    watchdog = Watchdog(
        is_work_waiting=Run.objects.filter(status=Run.Status.QUEUED).exists,
        send=notifications.wake,
    )

    def tick() -> None:
        holding.keep()
        watchdog.check()

    heartbeat.begin("distillation", device=settings.DEVICE, tick=tick)


def run() -> None:
    """Execute slices of the oldest queued run, if there is one; then send a message for the next run."""
    curate()  # first: it is short beside a run, which may use what it accepts
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
        notifications.wake()  # not a loop: between two tasks Celery handles signals


def curate() -> None:
    """Read the sources that wait, then judge the examples without a verdict of the active detector."""
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
