"""Worker of light tasks: the sweep and what else the schedule sends."""

import time
from functools import partial

from celery.signals import task_postrun
from django.conf import settings

from generation.infra import heartbeat, notifications
from generation.infra.watchdog import Watchdog

QUEUE = "light"
MISSED_SWEEPS = 3  # that the schedule should have sent meanwhile


class Idleness:
    """Time since this process last ran a task. Beat sends the sweep often, so a long silence is a fault."""

    def __init__(self) -> None:
        self._ran_at = time.monotonic()
        task_postrun.connect(self._ran)

    def _ran(self, **_: object) -> None:
        self._ran_at = time.monotonic()

    def is_long(self) -> bool:
        return time.monotonic() - self._ran_at > MISSED_SWEEPS * settings.SWEEP_SECONDS


def begin() -> None:
    """Begin the heartbeat, whose watchdog sends the sweep if nothing else does."""
    idleness = Idleness()
    send = partial(notifications.send, "generation.sweep", expires=settings.SWEEP_SECONDS)
    watchdog = Watchdog(is_work_waiting=idleness.is_long, send=send)
    heartbeat.begin(QUEUE, device="", tick=watchdog.check)
