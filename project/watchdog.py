"""Watchdog of the web process: it exits when no thread becomes free, or when the event loop does not turn.

Threads end late when a server that Django calls does not answer. A supervisor starts the process again.
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
LOOK_SECONDS = 0.5


class Watchdog:
    """stuck_seconds: for how long all threads have been at work and none has ended a call.

    Time is counted in looks, so a process that was stopped for a while does not count that.
    """

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge
        self._loop: asyncio.AbstractEventLoop | None = None
        self._turns = 0
        self.stuck_seconds = 0.0

    def start(self) -> None:
        """Call this in the event loop."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            threading.Thread(target=self._run, name="watchdog", daemon=True).start()

    def _turn(self) -> None:
        self._turns += 1

    def _run(self) -> None:
        loop, silent_seconds, seen = self._loop, 0.0, (0, 0)
        assert loop is not None
        while not loop.is_closed():
            try:
                loop.call_soon_threadsafe(self._turn)
            except RuntimeError:  # closed in between
                return
            time.sleep(LOOK_SECONDS)
            ended, turns = seen
            seen = self._bridge.ended, self._turns
            is_full = self._bridge.busy == self._bridge.threads
            self.stuck_seconds = (
                self.stuck_seconds + LOOK_SECONDS if is_full and seen[0] == ended else 0.0
            )
            silent_seconds = silent_seconds + LOOK_SECONDS if seen[1] == turns else 0.0
            if max(self.stuck_seconds, silent_seconds) >= settings.WEB_STUCK_SECONDS:
                self._exit(loop_seconds=silent_seconds)

    def _exit(self, *, loop_seconds: float) -> None:
        log.error("web_stuck", threads_seconds=self.stuck_seconds, event_loop_seconds=loop_seconds)
        faulthandler.dump_traceback(all_threads=True)
        metrics.increment("retort_web_stuck_total")
        metrics.flush()
        os._exit(EXIT_STUCK)  # the threads would not let an exception end the process
