"""The process of the distillation worker: lost messages, and slices that hang."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from celery import shared_task
from django.db.models.functions import Now

from distillation.models import Run, Slice
from distillation.runs import lifecycle as runs
from distillation.runs.lifecycle import Hold
from distillation.worker import process
from generation.infra import heartbeat, watchdog
from generation.infra.stalls import EXIT_STALLED, TIMES_LONG
from tests.distillation.factories import make_run

pytestmark = pytest.mark.django_db(transaction=True)


def test_the_lost_message_of_a_run_is_sent_again(redis_server):
    make_run()
    process.begin()
    try:
        deadline = time.monotonic() + 20
        while not redis_server.llen("distillation"):  # Celery's queue
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        heartbeat.end()


# --- a slice that hangs ---------------------------------------------------------------------------
@shared_task(name="tests.train")
def train(path: str) -> None:
    Path(path).read_bytes()


@pytest.fixture
def held(redis_server, settings, monkeypatch, tmp_path) -> Iterator[tuple[Run, Callable[[], None]]]:
    """A run whose slice this process executes, and a function that lets the slice hang."""
    settings.STALL_SECONDS, settings.LEASE_SECONDS = 1 / TIMES_LONG, 2.0
    path = tmp_path / "fifo"
    os.mkfifo(path)
    thread = threading.Thread(target=train.apply, args=[[str(path)]], daemon=True)
    run = make_run()
    process.begin()
    claimed = runs.claim("worker-1")
    assert claimed is not None
    process.holding.take(claimed[1])
    yield run, thread.start
    process.holding.let_go()
    heartbeat.end()
    while thread.is_alive():
        os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))
        thread.join(0.1)


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_slice_that_hangs_gives_its_run_back_and_ends_the_process(held, monkeypatch):
    run, hang = held
    exits: list[int] = []
    monkeypatch.setattr(watchdog.os, "_exit", exits.append)

    hang()
    until(lambda: exits)

    assert exits == [EXIT_STALLED]
    run.refresh_from_db()
    assert (run.status, run.failures) == ("queued", 1)
    slice = run.slices.get()
    assert slice.outcome == Slice.Outcome.LOST
    assert slice.error_detail == "No progress for 1 s: tests.train."


def test_the_lease_of_a_slice_that_hangs_is_not_renewed(held, monkeypatch):
    """Another worker continues the run, even if the process cannot end."""
    run, hang = held
    hanging = threading.Event()
    monkeypatch.setattr(watchdog.os, "_exit", lambda code: hanging.wait(60))
    monkeypatch.setattr(process.runs, "give_back", lambda *_, **__: True)
    time.sleep(2.5)  # longer than a lease
    assert runs.is_held(Hold(run.pk, 1), extend=False) and not expired(run)

    hang()
    until(lambda: expired(run))
    hanging.set()


def expired(run: Run) -> bool:
    return Run.objects.filter(pk=run.pk, lease_expires_at__lt=Now()).exists()
