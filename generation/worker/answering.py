"""Answers jobs that are identical to committed ones, in a separate thread, since there may be thousands."""

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial

import structlog

from generation.engine.device import use_threads
from generation.infra import heartbeat
from generation.infra.stalls import Kind, StallWatch, unknown_bound
from generation.jobs import completion
from generation.jobs.completion import Result
from generation.worker import writing

log = structlog.get_logger(__name__)


class Answering:
    """The thread and its pending work."""

    def __init__(self, watch: StallWatch) -> None:
        self._watch = watch
        self._threads = ThreadPoolExecutor(
            1, thread_name_prefix="answerer", initializer=partial(use_threads, 1)
        )
        self._waiting: deque[Future[None]] = deque()

    def answer(self, results: Sequence[Result]) -> None:
        """Start answering the jobs that are identical to these."""
        while self._waiting and self._waiting[0].done():
            self._waiting.popleft()
        self._waiting.append(self._threads.submit(self._answer, results))

    def finish(self) -> None:
        """Wait until all are answered."""
        wait(self._waiting)

    def end(self) -> None:
        self._threads.shutdown()

    def _answer(self, results: Sequence[Result]) -> None:
        with self._watch.watching(Kind.STORAGE, "identical jobs", unknown_bound()) as activity:

            def is_stopping() -> bool:
                activity.moved()
                return heartbeat.stopping.is_set()

            def answer() -> None:
                activity.moved()  # an outage of PostgreSQL is no stall
                completion.answer_identical(results, is_stopping=is_stopping)

            try:
                writing.patiently(answer)
            except Exception:  # the remaining jobs are claimed as repeats
                log.exception("identical_jobs_not_answered", jobs=len(results))
