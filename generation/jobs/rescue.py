"""Rescue of jobs whose lease ran out: their worker is gone, or frozen."""

import time
from collections.abc import Callable
from datetime import timedelta

import django.db
from django.conf import settings
from django.db import connection
from django.db.models.functions import Now

from generation.errors import WORKER_LOST
from generation.jobs.failures import Failure
from generation.jobs.lifecycle import Claim, Outcome, Status, settle
from generation.models import Job

AT_ONCE = 1000


def rescue() -> int:
    """Settle the attempts whose lease ran out. Return how many. Idempotent; any process may call it."""
    lost = Job.objects.filter(status=Status.RUNNING, lease_expires_at__lt=Now())
    rows = lost.order_by("lease_expires_at").values_list("id", "attempt", "worker_name")
    moved = 0
    for job_id, number, worker in rows[:AT_ONCE]:
        detail = f"Worker {worker} did not renew its lease of {settings.LEASE_SECONDS:g} s."
        failure = Failure(WORKER_LOST, detail)
        settled = settle(Claim(job_id, number), Outcome.LOST, failure, only_expired=True)
        moved += settled is not None
    return moved


def extend_expired() -> int:
    """Extend the leases that ran out by half a lease. Return how many."""
    lost = Job.objects.filter(status=Status.RUNNING, lease_expires_at__lt=Now())
    return lost.update(lease_expires_at=Now() + timedelta(seconds=settings.LEASE_SECONDS / 2))


class Rescuer:
    """Calls `rescue` again and again, in one process.

    After a time in which it did not reach PostgreSQL it waits for half a lease: the workers did not reach it either.
    Those that live commit and renew their leases in this time, so that a failover costs no finished image. While a full
    disk refuses its writes it refuses theirs too: the first write that succeeds gives them this time.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._reached_at: float | None = None
        self._begins_at = clock()
        self._is_refused = False

    def rescue(self) -> int:
        """Return how many jobs were rescued. Raises the database's errors."""
        with connection.cursor() as cursor:  # raises while PostgreSQL is away
            cursor.execute("SELECT current_setting('transaction_read_only')")
            if cursor.fetchone() != ("off",):
                return 0  # a standby, which takes no renewals either
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
