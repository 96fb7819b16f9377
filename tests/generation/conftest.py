"""A generation worker in the process of the test."""

import pytest

from generation.infra import heartbeat


@pytest.fixture
def worker(db):
    """A worker without a heartbeat: `run` serves all queued jobs."""
    from generation.worker.loop import GenerationWorker

    class Worker(GenerationWorker):
        def run(self) -> None:
            self.serve()
            self.finish()

    heartbeat.stopping.clear()
    found = Worker()
    yield found
    found.end()
    heartbeat.stopping.clear()
