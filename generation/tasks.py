"""Celery's entry points: hints that name no row. What they run is imported inside, so publishing loads no tensors."""

from collections.abc import Callable
from functools import partial
from typing import Any

import structlog
from celery import shared_task
from celery.exceptions import WorkerTerminate
from celery.signals import (
    beat_init,
    setup_logging,
    worker_ready,
    worker_shutdown,
    worker_shutting_down,
)

from generation.infra import heartbeat, metrics, notifications, queues
from generation.jobs import lifecycle as jobs
from generation.jobs import retention
from generation.models import Job, Worker
from generation.webhooks import endpoints as webhooks

log = structlog.get_logger(__name__)


@shared_task(name="generation.serve", ignore_result=True)
def serve(**_: object) -> None:
    """A turn of a generation worker: batches as they are wanted."""
    from generation.worker import process as worker

    worker.serve()


@shared_task(name="generation.encode", ignore_result=True)
def encode(**_: object) -> None:
    """Compute missing embeddings, for a bounded time. Who waits for a match does not wait for that."""
    from generation.catalogue import encoding, nearest

    with nearest.busy():
        if encoding.encode_missing(seconds=20, between=nearest.answer_waiting):
            notifications.encode()


@shared_task(name="generation.match", ignore_result=True)
def match(**_: object) -> None:
    """Say which prompt variants are nearest to the texts that wait."""
    from generation.catalogue import nearest

    with nearest.busy():
        nearest.answer_waiting()


@shared_task(name="generation.deliver", ignore_result=True)
def deliver(**_: object) -> None:
    """Send webhooks until none is due."""
    from generation.webhooks import delivery

    delivery.run()


@shared_task(name="generation.forget_webhooks", ignore_result=True)
def forget_webhooks(**_: object) -> None:
    """Delete webhooks that were delivered, or given up, long ago."""
    webhooks.forget_old()


@shared_task(name="generation.clean", ignore_result=True)
def clean(**_: object) -> None:
    """Remove images that have been kept long enough, and what no row refers to."""
    retention.sweep()


@shared_task(name="generation.sweep", ignore_result=True)
def sweep(**_: object) -> None:
    """Rescue jobs of lost workers, end those whose time is over, wake workers where jobs wait."""
    jobs.rescue()
    jobs.end_overdue()
    heartbeat.forget_gone()
    metrics.increment("retort_sweeps_total")
    if Job.objects.filter(status=Job.Status.QUEUED).exists():
        for _worker in range(max(1, Worker.objects.filter(queue="generation").count())):
            notifications.wake()
        if heartbeat.is_served(queues.REFERENCE):  # unread hints must not pile up
            notifications.wake(queues.REFERENCE)
    if webhooks.are_due() and heartbeat.is_served("webhooks"):
        notifications.deliver()


@setup_logging.connect
def keep_our_logging(**_: object) -> None:
    """Connected, so that Celery leaves the logging of settings alone."""


@worker_ready.connect
def begin(sender, **_: object) -> None:
    """A worker consumes its queue: load what the queue needs, then show the heartbeat."""
    begin_for("generation", sender, partial(_generation, "generation"))
    begin_for("reference", sender, partial(_generation, "reference"))
    begin_for("encode", sender, _encode)
    begin_for("webhooks", sender, _webhooks)


def begin_for(queue: str, sender: Any, prepare: Callable[[], None]) -> None:
    """Call `prepare` if the worker that is ready consumes the queue."""
    if queue not in {consumed.name for consumed in sender.task_consumer.queues}:
        return
    try:
        prepare()
    except Exception as error:
        log.exception("worker_failed_to_begin")
        # Celery would swallow it and go on with a worker that holds nothing; the supervisor starts it again.
        raise WorkerTerminate(1) from error


def _generation(queue: str) -> None:
    from generation.worker import process as worker

    worker.begin(queue)
    notifications.turn(queue, workers=heartbeat.living(queue))


def _encode() -> None:
    from generation.catalogue import nearest

    nearest.begin()
    notifications.encode()


def _webhooks() -> None:
    from generation.webhooks import delivery as delivering

    delivering.begin()


@beat_init.connect
def be_the_only_beat(**_: object) -> None:
    """A second beat would send every tick twice: it stands by until the first is gone."""
    heartbeat.wait_for_beat_lock()


@worker_shutting_down.connect
def stop(**_: object) -> None:
    heartbeat.stopping.set()


@worker_shutdown.connect
def end(**_: object) -> None:
    heartbeat.end()
    metrics.flush()
