"""Batches of students between the steps of a teacher's batch, on the same thread.

A student's picture takes a fraction of a teacher's step. In a worker that serves both it waits for one step instead of
the rest of the batch.
"""

import time
from collections.abc import Callable, Collection

import django.db
import structlog
from django.db import close_old_connections

log = structlog.get_logger(__name__)

CHECK_SHARE = 0.05  # maximum share of the device time for queries for jobs


class Interleaving:
    """is_waiting: returns whether a job of these releases could be claimed; generate: claims and generates a batch of
    them, and returns whether there was one; releases: returns the pks of the loaded students.
    """

    def __init__(
        self,
        *,
        releases: Callable[[], Collection[int]],
        is_waiting: Callable[[Collection[int]], bool],
        generate: Callable[[Collection[int]], bool],
    ) -> None:
        self._releases = releases
        self._is_waiting = is_waiting
        self._generate = generate
        self._next_check = 0.0  # monotonic

    def run(self, step_seconds: float) -> None:
        """Generate waiting jobs for at most the time of the step, so that the teacher keeps half of the device."""
        began = time.monotonic()
        if began < self._next_check:
            return
        releases = self._releases()
        if not releases:
            return
        try:
            is_waiting = self._is_waiting(releases)
        except django.db.Error as error:  # the teacher's batch needs no database until its commit
            log.warning("database_away", error=str(error).strip())
            close_old_connections()
            is_waiting = False
        checked = time.monotonic()
        self._next_check = checked + (checked - began) / CHECK_SHARE
        if is_waiting:
            while self._generate(releases) and time.monotonic() < began + step_seconds:
                pass
