"""Watchdog of the web process: exits the process when no thread becomes free, or when the event loop is blocked.

Threads stay busy when a server that Django calls does not answer. A supervisor restarts the process.
"""

import asyncio
import faulthandler
import os
import threading
import time

import structlog
from django.conf import settings

from generation.infra import metrics
from project.bridge import Bridge

log = structlog.get_logger(__name__)

EXIT_STUCK = 70
CHECK_SECONDS = 0.5


class Watchdog:
    """stuck_seconds: for how long all threads have been busy and none has completed a call.

    Time is counted in checks, so that time in which the process was suspended does not count.
    """

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ticks = 0
        self.stuck_seconds = 0.0

    def start(self) -> None:
        """Call this in the event loop."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            threading.Thread(target=self._run, name="watchdog", daemon=True).start()

    def _tick(self) -> None:
        self._ticks += 1

    def _run(self) -> None:
        loop, silent_seconds, seen = self._loop, 0.0, (0, 0)
        assert loop is not None
        while not loop.is_closed():
            try:
                loop.call_soon_threadsafe(self._tick)
            except RuntimeError:  # the loop was closed in between
                return
            time.sleep(CHECK_SECONDS)
            ended, ticks = seen
            seen = self._bridge.ended, self._ticks
            is_full = self._bridge.busy == self._bridge.threads
            self.stuck_seconds = (
                self.stuck_seconds + CHECK_SECONDS if is_full and seen[0] == ended else 0.0
            )
            silent_seconds = silent_seconds + CHECK_SECONDS if seen[1] == ticks else 0.0
            if max(self.stuck_seconds, silent_seconds) >= settings.WEB_STUCK_SECONDS:
                self._exit(loop_seconds=silent_seconds)

    def _exit(self, *, loop_seconds: float) -> None:
        log.error("web_stuck", threads_seconds=self.stuck_seconds, event_loop_seconds=loop_seconds)
        faulthandler.dump_traceback(all_threads=True)
        metrics.increment("retort_web_stuck_total")
        metrics.flush()
        os._exit(EXIT_STUCK)  # an exception or sys.exit would wait for the threads
