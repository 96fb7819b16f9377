"""Rows of workers and their heartbeats."""

import time
from datetime import timedelta

import pytest

from generation.infra import heartbeat
from generation.models import Worker
from tests.people import make_worker

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_heartbeat_is_written_by_its_thread_and_the_row_goes_with_the_process(monkeypatch):
    monkeypatch.setattr(heartbeat, "HEARTBEAT_SECONDS", heartbeat.TICK_SECONDS)
    heartbeat.begin("encode", device="cpu")
    before = Worker.objects.get(queue="encode").heartbeat_at
    deadline = time.monotonic() + 10
    while Worker.objects.get(queue="encode").heartbeat_at == before:
        assert time.monotonic() < deadline, "no heartbeat"
        time.sleep(0.1)

    heartbeat.end()

    assert not Worker.objects.exists()


def test_rows_of_workers_that_are_long_silent_are_forgotten():
    make_worker(name="fresh")
    make_worker(name="gone", silent_seconds=timedelta(hours=2).total_seconds())

    heartbeat.forget_gone()

    assert [worker.name for worker in Worker.objects.all()] == ["fresh"]
