"""Heartbeat of a worker process in its row, written by a thread; and the stop flag of the process."""

import os
import socket
import threading
from collections.abc import Callable
from datetime import timedelta

import structlog
from django.conf import settings
from django.db import DatabaseError, close_old_connections
from django.db.models import QuerySet
from django.utils import timezone

from generation.models import Release, Worker

log = structlog.get_logger(__name__)

HEARTBEAT_SECONDS = 3.0
TICK_SECONDS = 0.5
GONE_AFTER = timedelta(hours=1)

stopping = threading.Event()  # set by the first TERM: begin nothing new
_ended = threading.Event()
_thread: threading.Thread | None = None


def begin(
    queue: str,
    *,
    device: str,
    release: Release | None = None,
    tick: Callable[[], None] | None = None,
) -> None:
    """Write this worker's row and keep it fresh. `tick` is called in the same thread every TICK_SECONDS."""
    global _thread
    facts = {
        "queue": queue,
        "hostname": socket.gethostname(),
        "pid": os.getpid(),
        "device": device,
        "release": release,
        "loaded": [],
        "started_at": timezone.now(),
        "heartbeat_at": timezone.now(),
    }
    Worker.objects.update_or_create(name=settings.WORKER_NAME, defaults=facts)
    log.info("worker_ready", worker=settings.WORKER_NAME, queue=queue, device=device)
    _ended.clear()
    _thread = threading.Thread(target=_beat, args=(tick,), name="heartbeat", daemon=True)
    _thread.start()


def _beat(tick: Callable[[], None] | None) -> None:
    beats = 0
    while not _ended.wait(TICK_SECONDS):
        try:
            close_old_connections()
            if tick:
                tick()
            if beats % round(HEARTBEAT_SECONDS / TICK_SECONDS) == 0:
                Worker.objects.filter(name=settings.WORKER_NAME).update(heartbeat_at=timezone.now())
            beats += 1
        except DatabaseError as error:
            # PostgreSQL restarts. The connection is replaced before the next tick.
            log.warning("heartbeat_failed", error=str(error))


def end() -> None:
    """Delete the row: this worker has stopped in good order."""
    if _thread is None:
        return
    _ended.set()
    _thread.join(timeout=2)
    try:
        Worker.objects.filter(name=settings.WORKER_NAME, pid=os.getpid()).delete()
    except DatabaseError as error:
        log.warning("worker_row_left", error=str(error))


def is_served(queue: str) -> bool:
    """Return whether a living worker consumes the queue."""
    return _living(queue).exists()


def living(queue: str) -> int:
    """Return how many living workers consume the queue."""
    return _living(queue).count()


def _living(queue: str) -> QuerySet[Worker]:
    oldest = timezone.now() - timedelta(seconds=settings.WORKER_STALE_SECONDS)
    return Worker.objects.filter(queue=queue, heartbeat_at__gte=oldest)


def forget_gone() -> None:
    """Delete rows of workers that have been silent for an hour."""
    Worker.objects.filter(heartbeat_at__lt=timezone.now() - GONE_AFTER).delete()
