"""The process that executes runs: alive while it works, gone when no message reaches it."""

import time

import pytest

from distillation.runs import lifecycle as runs
from distillation.runs import worker
from tests.distillation.people import make_run

pytestmark = pytest.mark.django_db


@pytest.fixture
def exits(settings, monkeypatch) -> list[int]:
    """With what the process would have ended; its patience is over at once."""
    settings.DEAF_SECONDS = 0.01
    found: list[int] = []
    monkeypatch.setattr(worker.os, "_exit", found.append)
    make_run()
    time.sleep(0.02)
    return found


def test_a_worker_that_no_message_reaches_ends(exits):
    worker._last_run -= 1
    worker._tick()
    assert exits == [worker.EXIT_DEAF]


def test_one_that_loads_its_libraries_for_long_does_not(exits, monkeypatch):
    def claim(name: str) -> None:
        worker._last_run -= 1  # as long as a busy machine may take for them
        worker._tick()

    monkeypatch.setattr(runs, "claim", claim)
    worker.run()
    assert exits == []
