"""Watchdog of a Celery worker that no longer receives messages, or whose tasks make no progress.

Seen with Celery 5.7.0: when Redis becomes unreachable during a task of a solo worker, the worker may stay disconnected
until it is restarted.
"""

import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import structlog
from celery.signals import task_postrun, task_prerun
from django.conf import settings

from generation.infra import redis_client, stalls
from generation.infra.stalls import EXIT_STALLED, Activity, Kind, StallWatch

log = structlog.get_logger(__name__)

EXIT_UNRESPONSIVE = 70
CHECK_SECONDS = 1.0


class Watchdog:
    """Ends the process if work has waited for DEAF_SECONDS and no task ran, although Redis accepts writes.

    is_work_waiting: returns whether this worker could do some work. send: sends its message again. ran_at: end of the
    last task, or the start, by the monotonic clock.
    task_seconds: bound of a task's time without `stalls.progressed`; None: the tasks are watched elsewhere. The process
    ends when `slots` tasks have exceeded it. give_back: called before, with the reason; it may hang.
    """

    def __init__(
        self,
        *,
        is_work_waiting: Callable[[], bool],
        send: Callable[[], None],
        task_seconds: float | None = None,
        slots: int = 1,
        give_back: Callable[[str], object] = lambda detail: None,
    ) -> None:
        self._is_work_waiting = is_work_waiting
        self._send = send
        self._task_seconds = task_seconds
        self._give_back = give_back
        self._running: dict[str, Activity | None] = {}  # by task id
        self._stalls = StallWatch(self._stalled, most=slots)
        self._checked_at = self._waiting_since = self.ran_at = time.monotonic()
        task_prerun.connect(self._on_prerun)
        task_postrun.connect(self._on_postrun)
        if task_seconds is not None:
            self._stalls.begin()

    @property
    def has_stalled(self) -> bool:
        """Return whether the process is about to end, because its tasks make no progress."""
        return self._stalls.has_stalled

    def end(self) -> None:
        """End the watch on the tasks."""
        self._stalls.end()

    def _on_prerun(self, task_id: str, task: Any, **_: object) -> None:
        activity = None
        if self._task_seconds is not None:
            activity = self._stalls.add(Activity(Kind.TASK, task.name, self._task_seconds))
        self._running[task_id] = activity
        stalls.begin_task(activity)

    def _on_postrun(self, task_id: str, **_: object) -> None:
        activity = self._running.pop(task_id, None)
        if activity is not None:
            self._stalls.remove(activity)
        stalls.begin_task(None)
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

    def _stalled(self, activity: Activity) -> None:
        """Give the work back and end the process. Runs in the watch's thread."""
        stalls.report(activity)
        stalls.try_briefly(partial(self._give_back, activity.detail))
        os._exit(EXIT_STALLED)
