"""Rescue of jobs whose lease expired because their worker is gone or hangs."""

import time
from collections.abc import Callable
from datetime import timedelta

import django.db
from django.conf import settings
from django.db import connection
from django.db.models import QuerySet
from django.db.models.functions import Now

from generation.errors import WORKER_LOST
from generation.jobs.failures import Failure
from generation.jobs.lifecycle import Claim, Outcome, Status, settle
from generation.models import Job

AT_ONCE = 1000


def rescue() -> int:
    """Settle the attempts whose lease has expired. Return how many. Idempotent; any process may call it."""
    rows = _expired().order_by("lease_expires_at").values_list("id", "attempt", "worker_name")
    moved = 0
    for job_id, number, worker in rows[:AT_ONCE]:
        detail = f"Worker {worker} did not renew its lease of {settings.LEASE_SECONDS:g} s."
        failure = Failure(WORKER_LOST, detail)
        settled = settle(Claim(job_id, number), Outcome.LOST, failure, only_expired=True)
        moved += settled is not None
    return moved


def extend_expired() -> int:
    """Extend the expired leases by half a lease. Return how many."""
    half = timedelta(seconds=settings.LEASE_SECONDS / 2)
    return _expired().update(lease_expires_at=Now() + half)


def _expired() -> QuerySet[Job]:
    """Return the running jobs whose lease has expired."""
    return Job.objects.filter(status=Status.RUNNING, lease_expires_at__lt=Now())


class Rescuer:
    """Calls `rescue` repeatedly in one process.

    After PostgreSQL was unreachable it waits for half a lease, in which live workers commit results and renew their
    leases, so that a failover costs no finished image. After PostgreSQL refused its writes (a full disk) the first
    successful one extends expired leases by half a lease, for the same reason.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._reached_at: float | None = None
        self._begins_at = clock()
        self._is_refused = False

    def rescue(self) -> int:
        """Rescue jobs and return how many. Raises the database's errors."""
        with connection.cursor() as cursor:  # raises while PostgreSQL is unreachable
            cursor.execute("SELECT current_setting('transaction_read_only')")
            if cursor.fetchone() != ("off",):
                return 0  # a standby, which accepts no renewals either
        now, half = self._clock(), settings.LEASE_SECONDS / 2
        if self._reached_at is not None and now - self._reached_at > half:
            self._begins_at = now + half
        self._reached_at = now
        return self._write() if now >= self._begins_at else 0

    def _write(self) -> int:
        try:
            if self._is_refused:
                extend_expired()
                self._is_refused = False
                return 0
            return rescue()
        except django.db.Error:
            self._is_refused = True
            raise
