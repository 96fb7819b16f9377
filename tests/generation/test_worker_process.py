"""Real Celery workers: what their bootsteps do, and how they receive messages."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from django.conf import settings
from django.db import connection

from generation.catalogue import encoding
from generation.infra import notifications
from generation.jobs import submission
from generation.jobs.job_request import JobRequest
from generation.models import Job, Worker
from generation.releases import lifecycle as releases
from tests.people import make_user, make_variant
from tests.tiny import make_tiny_release

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def start(redis_server, tmp_path: Path) -> Iterator[Callable[..., "subprocess.Popen[bytes]"]]:
    """Start a worker as `deploy.local` does."""
    found: list[subprocess.Popen[bytes]] = []

    def start(name: str, queue: str, **env: str) -> "subprocess.Popen[bytes]":
        url = os.environ["DATABASE_URL"].rsplit("/", 1)[0] + f"/{connection.settings_dict['NAME']}"
        with (tmp_path / f"{name}.log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", "project", "worker", "-Q", queue, "-P", "solo",
                 "--concurrency", "1", "-n", f"{name}@%h", "--without-gossip", "--without-mingle",
                 "--without-heartbeat"],
                env={**os.environ, "DATABASE_URL": url, "REDIS_URL": settings.REDIS_URL, "WORKER_NAME": name,
                     "DATA_DIR": str(settings.DATA_DIR), "TORCH_THREADS": "1", "LOG_FORMAT": "json", **env},
                cwd=settings.BASE_DIR, stdout=log, stderr=log,
            )  # fmt: skip
        found.append(process)
        return process

    yield start
    for process in found:
        process.kill()
        process.wait()


@pytest.fixture
def served(tmp_path: Path) -> None:
    make_tiny_release(tmp_path / "tiny", name="tiny", kind="student")
    releases.activate(releases.register(tmp_path / "tiny"))
    make_variant(slug="vase", text="a red glass vase")
    assert encoding.encode_missing() == 0


def until(look: Callable[[], object], seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not look():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_generation_workers_share_what_is_submitted_and_stop_on_a_signal(
    served, start, redis_server
):
    workers = [start(name, "generation", BATCH_SIZE="1") for name in ("one", "two")]
    until(lambda: Worker.objects.count() == 2)
    owner = make_user()
    for seed in range(20):
        submission.submit(owner, JobRequest(variant="vase", seed=seed))
    until(lambda: Job.objects.filter(status="succeeded").count() == 20)
    assert set(Job.objects.values_list("worker_name", flat=True)) == {"one", "two"}

    for _ in range(3000):  # surplus messages: they delay neither a job nor the end
        notifications.send("generation.serve", expires=60)
    job = submission.submit(owner, JobRequest(variant="vase", seed=100))
    until(lambda: Job.objects.filter(id=job.id, status="succeeded").exists(), 30)
    for worker in workers:
        worker.send_signal(signal.SIGTERM)
    assert [worker.wait(60) for worker in workers] == [0, 0]

    assert not Worker.objects.exists()


def test_a_worker_that_cannot_begin_ends_with_an_error(start):
    process = start("encode", "encode", DATABASE_URL="postgres://nobody@127.0.0.1:1/none")
    assert process.wait(180) == 1
