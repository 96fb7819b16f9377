"""This process as a worker row: a heartbeat from a thread, so that a busy worker is not taken for a dead one.

Also holds the process's stop flag. Knows nothing of what the worker does.
"""

import os
import socket
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import structlog
from django.conf import settings
from django.db import DatabaseError, close_old_connections, connection
from django.utils import timezone

from generation.infra.compiled import Compiled
from generation.models import Release, Worker

log = structlog.get_logger(__name__)

HEARTBEAT_SECONDS = 3.0
TICK_SECONDS = 0.5
BEAT_LOCK = 0x7265746F7274  # "retort"
BEAT_RETRY_SECONDS = 5.0
GONE_AFTER = timedelta(hours=1)

stopping = threading.Event()  # set by the first TERM: finish nothing new
_ended = threading.Event()
_thread: threading.Thread | None = None


def begin(
    queue: str,
    *,
    device: str,
    release: Release | None = None,
    tick: Callable[[], None] | None = None,
) -> None:
    """Write this worker's row and keep it fresh. `tick` runs in the same thread every TICK_SECONDS."""
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
            # PostgreSQL restarts: go on beating, the connection is replaced at the next turn.
            log.warning("heartbeat_failed", error=str(error))


def end() -> None:
    """Take the row away: this worker stopped in good order."""
    if _thread is None:
        return
    _ended.set()
    _thread.join(timeout=2)
    try:
        Worker.objects.filter(name=settings.WORKER_NAME, pid=os.getpid()).delete()
    except DatabaseError as error:
        log.warning("worker_row_left", error=str(error))


def wait_for_beat_lock() -> None:
    """Return when this process alone holds the lock of beat. PostgreSQL frees it with the process, however it ends."""
    said = False
    while True:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_try_advisory_lock(%s)", [BEAT_LOCK])
            if cursor.fetchone()[0]:
                log.info("beat_begins")
                return
        if not said:
            log.info("beat_stands_by")
            said = True
        time.sleep(BEAT_RETRY_SECONDS)


def is_served(queue: str) -> bool:
    """Whether a living worker consumes the queue."""
    return _SERVING.first(queue=queue, alive=_alive_since()) is not None


def living(queue: str) -> int:
    """How many living workers consume the queue."""
    return Worker.objects.filter(queue=queue, heartbeat_at__gte=_alive_since()).count()


def _alive_since() -> datetime:
    """The last heartbeat of a living worker is not older."""
    return timezone.now() - timedelta(seconds=settings.WORKER_STALE_SECONDS)


_SERVING = Compiled(
    lambda queue, alive: (
        Worker.objects.filter(queue=queue, heartbeat_at__gte=alive).only("pk").order_by()[:1]
    ),
    queue="?queue",
    alive=datetime(1973, 1, 1, tzinfo=UTC),
)


def forget_gone() -> None:
    """Delete rows of workers that have been silent for an hour."""
    Worker.objects.filter(heartbeat_at__lt=timezone.now() - GONE_AFTER).delete()
