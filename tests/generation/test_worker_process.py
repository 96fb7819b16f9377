"""Real Celery workers: their bootsteps, and how they receive messages."""

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from generation.catalogue import encoding
from generation.infra import notifications
from generation.jobs import submission
from generation.jobs.job_request import JobRequest
from generation.models import Job, Worker
from generation.releases import lifecycle as releases
from tests.celery_worker import CeleryWorker, workers
from tests.factories import make_user, make_variant
from tests.tiny import make_tiny_release

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def start(redis_server, tmp_path: Path) -> Iterator[Callable[..., CeleryWorker]]:
    with workers(tmp_path) as start:
        yield start


@pytest.fixture
def served(tmp_path: Path) -> None:
    make_tiny_release(tmp_path / "tiny", name="tiny", kind="student")
    releases.activate(releases.register(tmp_path / "tiny"))
    make_variant(slug="vase", text="a red glass vase")
    assert encoding.encode_missing() == 0


def until(condition: Callable[[], object], seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_generation_workers_share_submitted_jobs_and_stop_on_a_signal(served, start, redis_server):
    workers = [start(name, "generation", BATCH_SIZE="1") for name in ("one", "two")]
    until(lambda: Worker.objects.count() == 2)
    owner = make_user()
    for seed in range(20):
        submission.submit(owner, JobRequest(variant="vase", seed=seed))
    until(lambda: Job.objects.filter(status="succeeded").count() == 20)
    assert set(Job.objects.values_list("worker_name", flat=True)) == {"one", "two"}

    for _ in range(3000):  # surplus messages delay neither a job nor the end
        notifications.send("generation.serve", expires=60)
    job = submission.submit(owner, JobRequest(variant="vase", seed=100))
    until(lambda: Job.objects.filter(id=job.id, status="succeeded").exists(), 30)
    for worker in workers:
        worker.send_signal(signal.SIGTERM)
    assert [worker.wait(60) for worker in workers] == [0, 0]

    assert not Worker.objects.exists()


def test_a_worker_that_cannot_start_ends_with_an_error(start):
    process = start("encode", "encode", DATABASE_URL="postgres://nobody@127.0.0.1:1/none")
    assert process.wait(180) == 1
