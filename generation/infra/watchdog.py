"""Watchdog of a Celery worker that no longer receives messages.

Seen with Celery 5.7.0: when Redis becomes unreachable during a task of a solo worker, the worker may stay disconnected
until it is restarted.
"""

import os
import time
from collections.abc import Callable

import structlog
from celery.signals import task_postrun, task_prerun
from django.conf import settings

from generation.infra import redis_client

log = structlog.get_logger(__name__)

EXIT_UNRESPONSIVE = 70
CHECK_SECONDS = 1.0


class Watchdog:
    """Ends the process if work has waited for DEAF_SECONDS and no task ran, although Redis accepts writes.

    is_work_waiting: returns whether this worker could do some work. send: sends its message again. ran_at: end of the
    last task, or the start, by the monotonic clock.
    """

    def __init__(self, *, is_work_waiting: Callable[[], bool], send: Callable[[], None]) -> None:
        self._is_work_waiting = is_work_waiting
        self._send = send
        self._running = 0
        self._checked_at = self._waiting_since = self.ran_at = time.monotonic()
        task_prerun.connect(self._on_prerun)
        task_postrun.connect(self._on_postrun)

    def _on_prerun(self, **_: object) -> None:
        self._running += 1

    def _on_postrun(self, **_: object) -> None:
        self._running -= 1
        self._waiting_since = self.ran_at = time.monotonic()

    def check(self) -> None:
        """Call this often, in a separate thread: the main thread may hang in the broker's socket."""
        now = time.monotonic()
        if now - self._checked_at < CHECK_SECONDS:
            return
        self._checked_at = now
        # `refusal` tests a write: a server that refuses writes still answers PING.
        is_serving = not redis_client.is_paused() and redis_client.refusal() is None
        if self._running or not is_serving or not self._is_work_waiting():
            self._waiting_since = now
        elif now - self._waiting_since > settings.DEAF_SECONDS:
            idle = round(now - self._waiting_since)
            log.error("worker_receives_nothing", worker=settings.WORKER_NAME, idle_seconds=idle)
            os._exit(EXIT_UNRESPONSIVE)  # an exception would not reach the main thread
        else:
            self._send()
