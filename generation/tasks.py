"""Celery tasks, which take no arguments, and bootsteps of workers. They import their code when they run, so that
processes that only send messages load no tensor library."""

from typing import TYPE_CHECKING, Any

from celery import shared_task
from celery.signals import beat_init, setup_logging, task_prerun, worker_shutting_down
from django.db import close_old_connections
from django.utils import timezone

from generation.images import scrub as scrubbing
from generation.infra import beat_lock, heartbeat, light, metrics, notifications, queues
from generation.infra.bootstep import QueueStep
from generation.jobs import lifecycle as jobs
from generation.jobs import retention
from generation.jobs.rescue import Rescuer
from generation.models import Job
from generation.releases import quality
from generation.webhooks import endpoints as webhooks

if TYPE_CHECKING:
    from generation.worker.loop import GenerationWorker


@shared_task(name="generation.serve", ignore_result=True)
def serve(**_: object) -> None:
    """Generate batches until no job is left."""
    if GenerationStep.worker is not None:
        GenerationStep.worker.serve()


@shared_task(name="generation.encode", ignore_result=True)
def encode(**_: object) -> None:
    """Compute missing embeddings for a bounded time, and match texts in between."""
    from generation.catalogue import encoding, nearest

    if encoding.encode_missing(seconds=20, between=nearest.answer_waiting):
        notifications.encode()


@shared_task(name="generation.match", ignore_result=True)
def match(**_: object) -> None:
    """Match the waiting texts of requests to prompt variants."""
    from generation.catalogue import nearest

    nearest.answer_waiting()


@shared_task(name="generation.deliver", ignore_result=True)
def deliver(**_: object) -> None:
    """Send webhooks until none is due."""
    from generation.webhooks import delivery

    delivery.run()


@shared_task(name="generation.forget_webhooks", ignore_result=True)
def forget_webhooks(**_: object) -> None:
    """Delete webhook deliveries that ended long ago."""
    webhooks.forget_old()


@shared_task(name="generation.clean", ignore_result=True)
def clean(**_: object) -> None:
    """Remove images whose retention time is over, and files that no row refers to."""
    retention.sweep()


@shared_task(name="generation.scrub", ignore_result=True)
def scrub(**_: object) -> None:
    """Check some of the stored images against their hashes."""
    scrubbing.scrub(scrubbing.folder_at(timezone.now()))


@shared_task(name="generation.count_quality", ignore_result=True)
def count_quality(**_: object) -> None:
    """Recount the right pictures of each prompt and release in recent jobs."""
    quality.count_jobs()


rescuer = Rescuer()


@shared_task(name="generation.sweep", ignore_result=True)
def sweep(**_: object) -> None:
    """Rescue jobs of lost workers, cancel those whose deadline has passed, send lost messages again."""
    rescuer.rescue()
    jobs.end_overdue()
    heartbeat.forget_gone()
    metrics.increment("retort_sweeps_total")
    if Job.objects.filter(status=Job.Status.QUEUED).exists():
        notifications.wake()
        if heartbeat.is_served(queues.REFERENCE):  # unread messages would pile up
            notifications.wake(queues.REFERENCE)
    if webhooks.are_due() and heartbeat.is_served("webhooks"):
        notifications.deliver()


@task_prerun.connect
def close_old(task: Any, **_: object) -> None:
    """Close broken and old connections. Celery would close all of them: see CELERY_DB_REUSE_MAX."""
    if not task.request.is_eager:  # an eager task runs within its caller's transaction
        close_old_connections()


@setup_logging.connect
def keep_our_logging(**_: object) -> None:
    """Do nothing: a receiver of this signal keeps Celery from configuring logging."""


@beat_init.connect
def be_the_only_beat(**_: object) -> None:
    """Wait until no other beat runs: two would send every message twice."""
    beat_lock.acquire()


@worker_shutting_down.connect
def stop(**_: object) -> None:
    heartbeat.stopping.set()


class GenerationStep(QueueStep):
    """A worker of students' jobs, and of teachers' jobs while no worker consumes `reference`."""

    queue = queues.GENERATION
    worker: "GenerationWorker | None" = None  # the one of this process

    def begin(self) -> None:
        from generation.worker.loop import GenerationWorker

        GenerationStep.worker = GenerationWorker(self.queue)
        GenerationStep.worker.begin()

    def end(self) -> None:
        if GenerationStep.worker is not None:
            GenerationStep.worker.end()


class ReferenceStep(GenerationStep):
    """A worker of teachers' jobs only."""

    queue = queues.REFERENCE


class EncodeStep(QueueStep):
    """A worker that computes embeddings and matches texts."""

    queue = "encode"

    def begin(self) -> None:
        from generation.catalogue import nearest

        nearest.begin()
        notifications.encode()


class LightStep(QueueStep):
    """A worker of sweeps, decisions on redistillation, and retention."""

    queue = light.QUEUE

    def begin(self) -> None:
        light.begin(slots=self.slots)


class WebhooksStep(QueueStep):
    """A worker that sends webhooks."""

    queue = "webhooks"

    def begin(self) -> None:
        from generation.webhooks import delivery

        delivery.begin()
