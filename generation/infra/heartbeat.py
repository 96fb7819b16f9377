"""Heartbeat of a worker process, written to its row by a thread; and the stop flag of the process."""

import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import django.db
import structlog
from django.conf import settings
from django.db import IntegrityError, close_old_connections
from django.db.models import F, QuerySet, Value
from django.db.models.functions import Coalesce, Now

from generation.engine.errors import DeviceUnavailable
from generation.errors import StorageFailed
from generation.infra import database
from generation.models import Worker

log = structlog.get_logger(__name__)

HEARTBEAT_SECONDS = 3.0
TICK_SECONDS = 0.5
GONE_AFTER = timedelta(hours=1)
EXIT_FAILED = 70
STOPPING = (
    StorageFailed.code,
    DeviceUnavailable.code,
)  # faults with which a worker takes no jobs at all

stopping = threading.Event()  # set by the first SIGTERM: start no new work
_ended = threading.Event()
_thread: threading.Thread | None = None
_columns: dict[str, Any] = {}  # column → value, as this process last wrote the row


def begin(
    queue: str,
    *,
    device: str,
    devices: Sequence[str] = (),
    tick: Callable[[], None] | None = None,
) -> None:
    """Write this worker's row and keep it fresh.

    devices: of its machine, if other processes need to know them. `tick` is called in the same thread every
    TICK_SECONDS.

    While PostgreSQL accepts no writes, the thread tries again, so that the process does not end and load again.
    """
    global _thread
    _columns.update(
        queue=queue,
        hostname=socket.gethostname(),
        pid=os.getpid(),
        device=device,
        devices=list(devices),
        release_id=None,
        loaded=[],
    )
    try:
        Worker.objects.update_or_create(
            name=settings.WORKER_NAME,
            defaults={**_columns, "started_at": Now(), "heartbeat_at": Now()},
        )
    except django.db.Error as error:
        # Without an SQLSTATE the server was not reached: the address may be wrong.
        if not (database.is_away(error) and database.sqlstate(error)):
            raise
        log.warning("heartbeat_failed", error=str(error))
        database.leave_read_only(error)
    log.info("worker_ready", worker=settings.WORKER_NAME, queue=queue, device=device)
    _ended.clear()
    _thread = threading.Thread(target=_beat, args=(tick,), name="heartbeat", daemon=True)
    _thread.start()


def note_loaded(*, release_id: int | None, loaded: list[int]) -> None:
    """Write which release this worker used last, and which ones are loaded."""
    _columns.update(release_id=release_id, loaded=loaded)
    Worker.objects.filter(name=settings.WORKER_NAME).update(release_id=release_id, loaded=loaded)


def note_measured(batch_seconds: dict[str, Any]) -> None:
    """Set the batch times, in the format of `jobs.throughput`, for the next heartbeat to write."""
    _columns.update(batch_seconds=batch_seconds)


def note_fault(*, code: str, detail: str) -> None:
    """Write the fault that keeps this worker from taking jobs; "" = none."""
    _columns.update(fault=code, fault_detail=detail)
    since = Coalesce(F("faulty_since"), Now()) if code else Value(None)
    Worker.objects.filter(name=settings.WORKER_NAME).update(
        fault=code, fault_detail=detail, faulty_since=since
    )


def last_fault(queue: str) -> str:
    """Return the fault that ended a worker of this queue on this host, or ""."""
    rows = Worker.objects.filter(queue=queue, hostname=socket.gethostname()).exclude(fault="")
    return rows.order_by("-heartbeat_at").values_list("fault", flat=True).first() or ""


def _write() -> None:
    """Write all columns, since the row may come from a backup; insert the row again if it is missing."""
    if Worker.objects.filter(name=settings.WORKER_NAME).update(**_columns, heartbeat_at=Now()):
        return
    if not _ended.is_set():
        Worker.objects.create(
            name=settings.WORKER_NAME, **_columns, started_at=Now(), heartbeat_at=Now()
        )
        log.warning("worker_row_restored", worker=settings.WORKER_NAME)


def _beat(tick: Callable[[], None] | None) -> None:
    beats = 0
    failing_since: float | None = None
    while not _ended.wait(TICK_SECONDS):
        try:
            close_old_connections()
            if tick:
                tick()
            if beats % round(HEARTBEAT_SECONDS / TICK_SECONDS) == 0:
                _write()
            beats += 1
            failing_since = None
        except IntegrityError as error:
            # The release is gone, or another process has inserted the row: the next heartbeat handles it.
            log.warning("heartbeat_failed", error=str(error))
            _columns.update(release_id=None)
        except django.db.Error as error:
            # PostgreSQL restarts or fails over. The connection is replaced before the next tick.
            log.warning("heartbeat_failed", error=str(error))
            database.leave_read_only(error)
        except Exception:
            # Continue: this thread renews leases, and without it the process would lose its jobs.
            log.exception("heartbeat_failed")
            failing_since = failing_since or time.monotonic()
            if time.monotonic() - failing_since > settings.LEASE_SECONDS:
                os._exit(EXIT_FAILED)


def end() -> None:
    """Delete the row after a regular stop of this worker."""
    if _thread is None:
        return
    _ended.set()
    _thread.join(timeout=2)
    try:
        Worker.objects.filter(name=settings.WORKER_NAME, pid=os.getpid()).delete()
    except django.db.Error as error:
        log.warning("worker_row_not_deleted", error=str(error))


def is_served(queue: str) -> bool:
    """Return whether a live worker without a fault consumes the queue."""
    return living(queue).exists()


def living(queue: str) -> QuerySet[Worker]:
    """Return the rows of the queue's live workers that take jobs. One with a failing release takes other jobs."""
    rows = alive().filter(queue=queue)
    return rows.exclude(fault__in=STOPPING) if queue == "generation" else rows.filter(fault="")


def alive() -> QuerySet[Worker]:
    """Return the rows of live workers, by PostgreSQL's clock, since the clocks of hosts differ."""
    oldest = Now() - timedelta(seconds=settings.WORKER_STALE_SECONDS)
    return Worker.objects.filter(heartbeat_at__gte=oldest)


def forget_gone() -> None:
    """Delete rows of workers that have been silent for an hour."""
    Worker.objects.filter(heartbeat_at__lt=Now() - GONE_AFTER).delete()
