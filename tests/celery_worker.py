"""A Celery worker in a process of its own, started as `deploy.local` does, on the database of the test."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from django.conf import settings

from tests.web import database_url


class CeleryWorker(subprocess.Popen[bytes]):
    """environment: variables that are added to those of the tests or replace them."""

    def __init__(
        self, name: str, queue: str, folder: Path, *, pool: str = "solo", **environment: str
    ) -> None:
        self.log = folder / f"{name}.log"
        with self.log.open("w") as log:
            super().__init__(
                [sys.executable, "-m", "celery", "--quiet", "-A", "project", "worker", "-Q", queue, "-P", pool,
                 "--concurrency", "1", "-n", f"{name}@%h", "--without-gossip", "--without-mingle",
                 "--without-heartbeat"],
                env={**os.environ, "DATABASE_URL": database_url(), "REDIS_URL": settings.REDIS_URL,
                     "WORKER_NAME": name, "DATA_DIR": str(settings.DATA_DIR), "TORCH_THREADS": "1",
                     "LOG_FORMAT": "json", **environment},
                cwd=settings.BASE_DIR, stdout=log, stderr=log,
            )  # fmt: skip

    def end(self) -> None:
        self.kill()
        self.wait()


@contextmanager
def workers(folder: Path) -> Iterator[Callable[..., CeleryWorker]]:
    """Yield a function that starts a worker (name, queue, variables). All workers end with the block."""
    found: list[CeleryWorker] = []

    def start(name: str, queue: str, **env: str) -> CeleryWorker:
        found.append(CeleryWorker(name, queue, folder, **env))
        return found[-1]

    try:
        yield start
    finally:
        for process in found:
            process.end()
