"""Pausing and resuming of job queues by people. Jobs of a paused queue are accepted and wait."""

from dataclasses import dataclass
from datetime import datetime
from functools import partial

from django.db import transaction
from django.db.models.functions import Now

from generation.access import audit
from generation.infra import heartbeat, notifications, queues
from generation.models import Job, Queue, Release, Worker

NAMES = (queues.GENERATION, queues.REFERENCE)
RUNNING, DRAINING, PAUSED = "running", "draining", "paused"


@dataclass(frozen=True)
class QueueState:
    """State of a queue. status: draining = paused while jobs are still running. queued, running: numbers of jobs."""

    name: str
    status: str
    queued: int
    running: int
    workers: int
    paused_at: datetime | None = None
    paused_by: str = ""
    reason: str = ""


def states() -> list[QueueState]:
    """Return the state of each queue of jobs."""
    rows = {row.name: row for row in Queue.objects.filter(name__in=NAMES)}
    return [_state(name, rows.get(name)) for name in NAMES]


def state(name: str) -> QueueState:
    """Return the state of a queue. Raises Queue.DoesNotExist."""
    return _state(_checked(name), Queue.objects.filter(name=name).first())


def pause(name: str, *, by: str, reason: str = "") -> QueueState:
    """Stop claims from the queue; running jobs finish. Return its state. Raises Queue.DoesNotExist."""
    with transaction.atomic():
        row, _ = Queue.objects.select_for_update().get_or_create(name=_checked(name))
        if row.paused_at is None:
            facts = {"paused_by": by[:150], "reason": reason[:200]}
            Queue.objects.filter(name=name).update(paused_at=Now(), **facts)
            audit.record("queue_paused", name, reason=reason[:200])
    return state(name)


def resume(name: str) -> QueueState:
    """Allow claims from the queue again. Return its state. Raises Queue.DoesNotExist."""
    with transaction.atomic():
        resumed = Queue.objects.filter(name=_checked(name), paused_at__isnull=False).update(
            paused_at=None, paused_by="", reason=""
        )
        if resumed:
            audit.record("queue_resumed", name)
            transaction.on_commit(partial(notifications.wake, name), robust=True)
    return state(name)


def _checked(name: str) -> str:
    if name not in NAMES:
        raise Queue.DoesNotExist(f"{name!r} is not one of {', '.join(NAMES)}.")
    return name


def _state(name: str, row: Queue | None) -> QueueState:
    """Return the state. Queued jobs count for the queue that would claim them, running ones for their worker's."""
    waiting = Job.objects.filter(status=Job.Status.QUEUED)
    running = Job.objects.filter(status=Job.Status.RUNNING)
    references = Worker.objects.filter(queue=queues.REFERENCE).values("name")
    is_split = queues.is_split()
    if name == queues.REFERENCE:
        waiting = waiting.filter(release__kind=Release.Kind.TEACHER) if is_split else waiting.none()
        running = running.filter(worker_name__in=references)
    else:
        waiting = waiting.exclude(release__kind=Release.Kind.TEACHER) if is_split else waiting
        running = running.exclude(worker_name__in=references)
    busy = running.count()
    paused = row is not None and row.paused_at is not None
    status = (DRAINING if busy else PAUSED) if paused else RUNNING
    counts = (waiting.count(), busy, heartbeat.living(name).count())
    if row is None:
        return QueueState(name, status, *counts)
    return QueueState(name, status, *counts, row.paused_at, row.paused_by, row.reason)
