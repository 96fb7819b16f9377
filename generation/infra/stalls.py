"""Watch on activities that must make progress: steps of the device, loading, files, tasks.

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

log = structlog.get_logger(__name__)

EXIT_STALLED = 72  # exit code of a process that ended because of a stall
GIVE_BACK_SECONDS = 10.0  # how long a process that ends itself tries to give its work back
CHECK_SECONDS = 0.25
FROZEN_SECONDS = 600.0  # time without a check after which faulthandler ends the process
# Bounds in multiples of STALL_SECONDS. Unknown: no measured time, such as loading, first batches, detectors, and tasks
# of many short steps (texts, messages). Long: a step of a training, an evaluation or a folder of files, on any device.
TIMES_UNKNOWN = 10
TIMES_LONG = 30


class Kind(StrEnum):
    DEVICE = "device"
    STORAGE = "storage"
    TASK = "task"


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

    @property
    def detail(self) -> str:
        """Return why it is stalled, as a sentence."""
        return f"No progress for {self.bound_seconds:.0f} s: {self.what}."


class StallWatch:
    """on_stall: called once, in the watch's thread, with a stalled activity; it must end the process.

    most: number of activities that must have stalled, such as all threads of a pool.
    """

    def __init__(self, on_stall: Callable[[Activity], None], *, most: int = 1) -> None:
        self._on_stall = on_stall
        self._most = most
        self.has_stalled = False
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
        activity = self.add(Activity(kind, what, bound_seconds))
        try:
            yield activity
        finally:
            self.remove(activity)

    def add(self, activity: Activity) -> Activity:
        with self._guard:
            self._by_id[id(activity)] = activity
        return activity

    def remove(self, activity: Activity) -> None:
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
                self.has_stalled = True
                self._on_stall(stalled)
                return

    def check(self, passed: float) -> Activity | None:
        """Add the seconds that passed to each activity. Return a stalled one if `most` of them have stalled."""
        stalled = []
        with self._guard:
            for activity in self._by_id.values():
                if activity.is_suspended:
                    continue
                activity.idle_seconds += passed
                if activity.idle_seconds > activity.bound_seconds:
                    stalled.append(activity)
        return stalled[0] if len(stalled) >= self._most else None


def _arm() -> None:
    with suppress(OSError, RuntimeError, AttributeError):  # stderr is missing
        faulthandler.dump_traceback_later(FROZEN_SECONDS, exit=True)


def report(activity: Activity) -> None:
    """Log a stalled activity, and write to stderr where each thread hangs."""
    seconds = f"{activity.bound_seconds:.0f} s"
    log.error("worker_stalled", what=activity.what, kind=activity.kind, seconds=seconds)
    with suppress(OSError, RuntimeError):
        faulthandler.dump_traceback()


def try_briefly(call: Callable[[], object]) -> None:
    """Run the call of a process that is about to end, for at most GIVE_BACK_SECONDS: PostgreSQL may hang too."""
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(GIVE_BACK_SECONDS)


def unknown_bound() -> float:
    """Return the bound in seconds for activities without a measured time."""
    return TIMES_UNKNOWN * settings.STALL_SECONDS


def long_bound() -> float:
    """Return the bound in seconds for tasks with long steps."""
    return TIMES_LONG * settings.STALL_SECONDS


# --- the task of a thread -------------------------------------------------------------------------
_task = threading.local()


def begin_task(activity: Activity | None) -> None:
    """Set the activity of the Celery task that this thread runs; None: no task, or an unwatched one."""
    _task.activity = activity


def progressed() -> None:
    """Note progress of the Celery task that this thread runs, if there is one."""
    activity = getattr(_task, "activity", None)
    if activity is not None:
        activity.moved()
