"""Worker of light tasks, such as the sweep and most periodic tasks."""

import time
from functools import partial

from django.conf import settings

from generation.infra import heartbeat, notifications, stalls
from generation.infra.watchdog import Watchdog

QUEUE = "light"
MISSED_SWEEPS = 3  # sweeps that beat should have sent


def begin(*, slots: int) -> None:
    """Start the heartbeat. Its watchdog sends the sweep if beat does not: beat sends it often, and no task has run.

    slots: number of tasks that the worker runs at once; while one hangs, the others continue.
    """
    send = partial(notifications.send, "generation.sweep", expires=settings.SWEEP_SECONDS)

    def is_idle() -> bool:
        return time.monotonic() - watchdog.ran_at > MISSED_SWEEPS * settings.SWEEP_SECONDS

    watchdog = Watchdog(
        is_work_waiting=is_idle, send=send, task_seconds=stalls.long_bound(), slots=slots
    )
    heartbeat.begin(QUEUE, device="", tick=watchdog.check)
