"""Circuit breaker for an object store: a store that does not answer must not occupy all threads of a web process."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from generation.errors import StorageFailed

log = structlog.get_logger(__name__)

CALLS_AT_ONCE = 3  # of the web process's eight threads
WAIT_SECONDS = 3.0  # for one of these calls to end
PAUSE_SECONDS = 5.0  # without calls after one that was not answered


class Breaker:
    """Limits calls to a server: few at once, and none for a while after one was not answered. Then one call probes.

    is_answer: returns whether an exception shows that the server answered. Instances are shared by threads.
    """

    def __init__(
        self, is_answer: Callable[[Exception], bool], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._is_answer = is_answer
        self._clock = clock
        self._guard = threading.Lock()
        self._places = threading.BoundedSemaphore(CALLS_AT_ONCE)
        self._answered_at = float("-inf")
        self._resume_at: float | None = None  # None: the last call was answered

    @contextmanager
    def call(self) -> Iterator[None]:
        """Run a call of the server. Raises StorageFailed, without calling, while the server does not answer."""
        began = self._admit()
        if not self._places.acquire(timeout=WAIT_SECONDS):
            self._not_answered(began, "No call has ended in time.")
            raise _refusal()
        try:
            yield
        except Exception as error:
            if self._is_answer(error):
                self._answered()
            else:
                self._not_answered(began, str(error))
            raise
        else:
            self._answered()
        finally:
            self._places.release()

    def _admit(self) -> float:
        """Return the time. Raises StorageFailed during a pause; at its end, for all calls but one."""
        with self._guard:
            now = self._clock()
            if self._resume_at is not None:
                if now < self._resume_at:
                    raise _refusal()
                self._resume_at = now + PAUSE_SECONDS  # while this call probes
            return now

    def _answered(self) -> None:
        with self._guard:
            self._answered_at = self._clock()
            was_paused, self._resume_at = self._resume_at is not None, None
        if was_paused:
            log.info("object_store_answers")

    def _not_answered(self, began: float, why: str) -> None:
        """Begin a pause, unless the server has answered another call since this one began."""
        with self._guard:
            if self._answered_at > began:
                return
            was_paused = self._resume_at is not None
            self._resume_at = self._clock() + PAUSE_SECONDS
        if not was_paused:
            log.warning("object_store_does_not_answer", error=why)


def _refusal() -> StorageFailed:
    return StorageFailed(
        "The object store does not answer at the moment.", retry_after=round(PAUSE_SECONDS)
    )
