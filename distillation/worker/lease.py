"""Lease of the run that a process executes, shared by the working thread and the one that renews the lease."""

import threading
import time

from django.conf import settings

from distillation.runs import lifecycle as runs
from distillation.runs.lifecycle import Hold


class Holding:
    """The run that this process holds. The main thread sets it; the heartbeat thread renews its lease."""

    def __init__(self) -> None:
        self.hold: Hold | None = None
        self.lost = threading.Event()  # the run was paused, canceled or rescued
        self._extended = 0.0

    def take(self, hold: Hold) -> None:
        self.lost.clear()
        self.hold = hold

    def let_go(self) -> None:
        self.hold = None

    def keep(self) -> None:
        """Renew the lease in time, and set `lost` if the hold is no longer valid. Called in the heartbeat thread."""
        hold, now = self.hold, time.monotonic()
        if hold is None:
            return
        extend = now - self._extended > settings.LEASE_SECONDS / 4
        if not runs.is_held(hold, extend=extend) and self.hold == hold:
            self.lost.set()
        if extend:
            self._extended = now
