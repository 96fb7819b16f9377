"""Run a function in several threads at once."""

import threading
from collections.abc import Callable

from django.db import connection


def in_threads(work: Callable[[], object], *, count: int) -> None:
    """Run `work` in `count` threads that begin together; return when all have ended."""
    start = threading.Barrier(count)

    def begin() -> None:
        try:
            start.wait()
            work()
        finally:
            connection.close()

    threads = [threading.Thread(target=begin) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
