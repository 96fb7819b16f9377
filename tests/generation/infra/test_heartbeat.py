"""Worker rows, and the lock that keeps beat single: with real processes and a real PostgreSQL."""

import os
import subprocess
import sys
import time
from datetime import timedelta

import pytest
from django.conf import settings
from django.db import connection

from generation.infra import heartbeat
from generation.models import Worker
from tests.people import make_worker

pytestmark = pytest.mark.django_db(transaction=True)

HOLD = """
import django, time
django.setup()
from generation.infra import heartbeat
heartbeat.wait_for_beat_lock()
print("held", flush=True)
time.sleep(60)
"""


def beat_process() -> "subprocess.Popen[str]":
    url = os.environ["DATABASE_URL"].rsplit("/", 1)[0] + f"/{connection.settings_dict['NAME']}"
    env = {
        **os.environ,
        "DATABASE_URL": url,
        "DJANGO_SETTINGS_MODULE": "project.settings",
        "LOG_FORMAT": "json",
    }
    return subprocess.Popen(
        [sys.executable, "-u", "-c", HOLD], env=env, cwd=settings.BASE_DIR, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_a_second_beat_stands_by_until_the_first_is_killed():
    first = beat_process()
    assert first.stdout and first.stdout.readline() == "held\n"
    second = beat_process()
    assert second.stderr and "beat_stands_by" in second.stderr.readline()

    first.kill()
    first.wait()

    assert second.stdout and second.stdout.readline() == "held\n"
    second.kill()
    second.wait()
    for process in (first, second):
        for stream in (process.stdout, process.stderr):
            assert stream
            stream.close()


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
