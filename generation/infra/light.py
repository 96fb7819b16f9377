"""Worker of light tasks, such as the sweep and most periodic tasks."""

import time
from functools import partial

from celery.signals import task_postrun
from django.conf import settings

from generation.infra import heartbeat, notifications
from generation.infra.watchdog import Watchdog

QUEUE = "light"
MISSED_SWEEPS = 3  # sweeps that beat should have sent


class Idleness:
    """Detects that this process has run no task for too long: beat sends the sweep often."""

    def __init__(self) -> None:
        self._ran_at = time.monotonic()
        task_postrun.connect(self._ran)

    def _ran(self, **_: object) -> None:
        self._ran_at = time.monotonic()

    def is_long(self) -> bool:
        return time.monotonic() - self._ran_at > MISSED_SWEEPS * settings.SWEEP_SECONDS


def begin() -> None:
    """Start the heartbeat. Its watchdog sends the sweep if beat does not."""
    idleness = Idleness()
    send = partial(notifications.send, "generation.sweep", expires=settings.SWEEP_SECONDS)
    watchdog = Watchdog(is_work_waiting=idleness.is_long, send=send)
    heartbeat.begin(QUEUE, device="", tick=watchdog.check)
