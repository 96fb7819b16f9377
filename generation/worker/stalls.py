"""Watch on activities that must make progress: steps of the device, loading, files.

It runs in a separate thread without calls that may hang, so that it detects stalls of any other thread.
"""

import faulthandler
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum

import structlog
from django.conf import settings

from generation.jobs import throughput
from generation.jobs.throughput import Curve

log = structlog.get_logger(__name__)

CHECK_SECONDS = 0.25
FROZEN_SECONDS = 600.0  # time without a check after which faulthandler ends the process
TIMES_MEASURED = 20  # bound of a step, in multiples of its measured time
TIMES_UNKNOWN = 10  # bound in multiples of STALL_SECONDS without a measured time: loading, first batches, detectors


class Kind(StrEnum):
    DEVICE = "device"
    STORAGE = "storage"


@dataclass
class Activity:
    """An activity of a thread, given by its identifier. bound_seconds: maximum time without progress."""

    kind: Kind
    what: str
    bound_seconds: float
    thread: int = field(default_factory=threading.get_ident)
    idle_seconds: float = 0.0
    is_suspended: bool = False

    def moved(self) -> None:
        """Note progress."""
        self.idle_seconds = 0.0


class StallWatch:
    """on_stall: called once, in the watch's thread, with the first stalled activity; it must end the process."""

    def __init__(self, on_stall: Callable[[Activity], None]) -> None:
        self._on_stall = on_stall
        self._by_id: dict[int, Activity] = {}
        self._guard = threading.Lock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Start the watch. If a call that holds the GIL blocks even its thread, faulthandler ends the process."""
        self._thread = threading.Thread(target=self._watch, name="stalls", daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._ended.set()
        faulthandler.cancel_dump_traceback_later()

    @contextmanager
    def watching(self, kind: Kind, what: str, bound_seconds: float) -> Iterator[Activity]:
        activity = Activity(kind, what, bound_seconds)
        with self._guard:
            self._by_id[id(activity)] = activity
        try:
            yield activity
        finally:
            with self._guard:
                del self._by_id[id(activity)]

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Suspend the count of the activities that this thread has begun, not of those that it begins meanwhile."""
        thread = threading.get_ident()
        with self._guard:
            own = [
                one for one in self._by_id.values() if one.thread == thread and not one.is_suspended
            ]
            for activity in own:
                activity.is_suspended = True
        try:
            yield
        finally:
            with self._guard:
                for activity in own:
                    activity.is_suspended = False

    def _watch(self) -> None:
        before = armed = time.monotonic()
        _arm()
        while not self._ended.wait(CHECK_SECONDS):
            now = time.monotonic()
            if now - armed > FROZEN_SECONDS / 10:
                armed = now
                _arm()
            # A much longer time between two checks means that the whole process was suspended, which is no stall.
            passed, before = min(now - before, 4 * CHECK_SECONDS), now
            if stalled := self.check(passed):
                self._on_stall(stalled)
                return

    def check(self, passed: float) -> Activity | None:
        """Add the seconds that passed to each activity. Return the first one that has stalled."""
        with self._guard:
            for activity in self._by_id.values():
                if activity.is_suspended:
                    continue
                activity.idle_seconds += passed
                if activity.idle_seconds > activity.bound_seconds:
                    return activity
        return None


def _arm() -> None:
    with suppress(OSError, RuntimeError, AttributeError):  # stderr is missing
        faulthandler.dump_traceback_later(FROZEN_SECONDS, exit=True)


def unknown_bound() -> float:
    """Return the bound in seconds for activities without a measured time."""
    return TIMES_UNKNOWN * settings.STALL_SECONDS


def step_bound(measured: Curve, images: int, *, steps: int) -> float:
    """Return the maximum of seconds between two steps of a batch of so many images."""
    seconds = throughput.at(measured, images)
    if seconds is None:
        return unknown_bound()
    return max(settings.STALL_SECONDS, TIMES_MEASURED * seconds.p90 / steps)
