"""Circuit breaker for the storage: one that does not answer must not occupy all threads of a web process."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from typing import TypeVar

import structlog

from generation.errors import StorageFailed

log = structlog.get_logger(__name__)
T = TypeVar("T")

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
        began = self._enter()
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

    def run(self, call: Callable[[], T], *, seconds: float) -> T:
        """Return the result of a call without a time limit of its own, such as a system call. Raises StorageFailed.

        It runs in another thread, which keeps its place until the call ends; this thread waits for `seconds` at most.
        """
        began = self._enter()
        future: Future[T] = Future()

        def work() -> None:
            try:
                future.set_result(call())
            except Exception as error:
                future.set_exception(error)
            finally:
                self._answered()
                self._places.release()

        try:
            # A daemon, since a hanging thread must not prevent the end of the process.
            threading.Thread(target=work, name="storage", daemon=True).start()
        except RuntimeError as error:  # the process may have no more threads
            self._places.release()
            raise StorageFailed(f"The storage cannot be called: {error}.") from error
        wait([future], timeout=seconds)
        if not future.done():
            self._not_answered(began, f"A call has not ended within {seconds:g} s.")
            raise _refusal()
        return future.result()

    def _enter(self) -> float:
        """Take a place, and return the time. Raises StorageFailed if there is none, or during a pause."""
        began = self._admit()
        if not self._places.acquire(timeout=WAIT_SECONDS):
            self._not_answered(began, "No call has ended in time.")
            raise _refusal()
        return began

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
            log.info("storage_answers")

    def _not_answered(self, began: float, why: str) -> None:
        """Begin a pause, unless the server has answered another call since this one began."""
        with self._guard:
            if self._answered_at > began:
                return
            was_paused = self._resume_at is not None
            self._resume_at = self._clock() + PAUSE_SECONDS
        if not was_paused:
            log.warning("storage_does_not_answer", error=why)


def _refusal() -> StorageFailed:
    return StorageFailed(
        "The storage does not answer at the moment.", retry_after=round(PAUSE_SECONDS)
    )
