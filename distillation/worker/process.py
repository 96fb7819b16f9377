"""Distillation worker: the process that executes slices of runs and designs, and judges pictures of sources.

It does not load torch while it is idle.
"""

import time

import structlog
from django.conf import settings

from distillation import notifications
from distillation.designs import devices
from distillation.designs import lifecycle as designs
from distillation.examples import lifecycle as examples
from distillation.models import Slice
from distillation.runs import lifecycle as runs
from distillation.training import allocator
from distillation.worker.lease import Holding
from generation.errors import GenerationError
from generation.infra import heartbeat, stalls
from generation.infra.watchdog import Watchdog

log = structlog.get_logger(__name__)

holding = Holding()


def begin() -> None:
    """Start the heartbeat, which also renews the lease of a run."""
    watchdog = Watchdog(
        is_work_waiting=is_work_waiting,
        send=notifications.wake,
        task_seconds=stalls.long_bound(),
        give_back=_give_back,
    )

    def tick() -> None:
        if not watchdog.has_stalled:  # otherwise another worker continues the run
            holding.keep()
        watchdog.check()

    heartbeat.begin(devices.QUEUE, device=settings.DEVICE, devices=devices.present(), tick=tick)


def _give_back(detail: str) -> None:
    """Release the run because its slice makes no progress. Called in another thread."""
    hold = holding.hold
    if hold is not None:
        runs.give_back(hold, Slice.Outcome.LOST, detail=detail)


def is_work_waiting() -> bool:
    """Return whether a run waits, or a design that this machine can measure."""
    return runs.waiting().exists() or designs.waiting(devices.present()).exists()


def run() -> None:
    """Execute slices of the oldest waiting run, else of a design; then send a message for the next."""
    curate()  # first: it is short compared with a run, which may use the newly accepted images
    if heartbeat.stopping.is_set() or not is_work_waiting():
        return
    try:
        _work()
    finally:
        allocator.return_freed_memory()  # the process stays, and may be idle for a day


def _work() -> None:
    if not runs.waiting().exists():
        _design()
        return
    # Loads torch, which an idle worker does not need. Before the claim, since no lease is renewed while it loads.
    from distillation.worker import slices

    claimed = runs.claim(settings.WORKER_NAME)
    if claimed is not None:
        holding.take(claimed[1])
        try:
            slices.execute(claimed[0], holding)
        finally:
            holding.let_go()
        notifications.wake()  # not a loop: between two tasks Celery handles signals


def _design() -> None:
    from distillation.designs import execution

    claimed = designs.claim(settings.WORKER_NAME, on=devices.present())
    if claimed is not None:
        execution.execute_slice(claimed)
        notifications.wake()


def curate() -> None:
    """Read the waiting sources, then judge the examples without a verdict of the active detector.

    If a run or a design waits, reading stops after SLICE_SECONDS, and continues after a slice of it.
    """
    if heartbeat.stopping.is_set() or not examples.waiting().exists():
        return
    from distillation.detector.errors import DetectorUnusable
    from distillation.examples import ingestion, verdicts

    ends = time.monotonic() + settings.SLICE_SECONDS

    def is_over() -> bool:
        return heartbeat.stopping.is_set() or (time.monotonic() >= ends and is_work_waiting())

    try:
        for source in examples.waiting():
            if is_over():
                break
            try:
                ingestion.ingest(source, is_over=is_over)
            except GenerationError:
                continue  # its row says why
        verdicts.judge_all(is_over=heartbeat.stopping.is_set)
    except (GenerationError, DetectorUnusable) as error:
        log.error("examples_not_judged", error=str(error))
