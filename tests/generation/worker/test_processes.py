"""Broken and hanging devices in real worker processes: effects on the jobs and on the process."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from generation.catalogue import encoding
from generation.infra.stalls import EXIT_STALLED
from generation.jobs import lifecycle as jobs
from generation.jobs import submission
from generation.jobs.job_request import JobRequest
from generation.models import Attempt, Job, Worker
from generation.releases import lifecycle as releases
from generation.worker.loop import EXIT_DEVICE
from tests.celery_worker import CeleryWorker
from tests.factories import make_user, make_variant
from tests.tiny import make_tiny_release

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]


@pytest.fixture
def start(redis_server, tmp_path: Path) -> Iterator[Callable[..., CeleryWorker]]:
    """Start a worker whose device can be broken by a file of its name (`tests.chaos.device`)."""
    found: list[CeleryWorker] = []

    def start(name: str, **env: str) -> CeleryWorker:
        chaos = {"DJANGO_SETTINGS_MODULE": "tests.chaos.settings", "CHAOS_DEVICES": str(tmp_path)}
        found.append(CeleryWorker(name, "generation", tmp_path, **chaos, **env))
        return found[-1]

    yield start
    for process in found:
        process.end()


@pytest.fixture
def owner(tmp_path: Path):
    make_tiny_release(tmp_path / "tiny", name="tiny", kind="student")
    releases.activate(releases.register(tmp_path / "tiny"))
    make_variant(slug="vase", text="a red glass vase")
    assert encoding.encode_missing() == 0
    return make_user()


def until(condition: Callable[[], object], seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_broken_worker_beside_a_healthy_one_fails_no_job(owner, start, tmp_path):
    broken, _ = start("generation-1"), start("generation-2")
    until(lambda: Worker.objects.count() == 2)
    (tmp_path / "generation-1").write_text("raise")
    for seed in range(40):
        submission.submit(owner, JobRequest(variant="vase", n=2, seed=2 * seed))

    assert broken.wait(180) == EXIT_DEVICE
    until(lambda: Job.objects.filter(status="succeeded").count() == 40)

    assert set(Job.objects.values_list("status", "failures", "worker_name")) == {
        ("succeeded", 0, "generation-2")
    }
    assert Worker.objects.get(name="generation-1").fault == "device_unavailable"
    again = start("generation-1")  # as the supervisor does
    until(lambda: "worker_faulty" in again.log.read_text())
    taken = Attempt.objects.filter(worker_name="generation-1").count()
    for seed in range(100, 110):
        submission.submit(owner, JobRequest(variant="vase", seed=seed))
    until(lambda: Job.objects.filter(status="succeeded").count() == 50)
    assert Attempt.objects.filter(worker_name="generation-1").count() == taken
    (tmp_path / "generation-1").unlink()  # the device is repaired
    until(lambda: Worker.objects.get(name="generation-1").fault == "")


def test_a_worker_that_hangs_releases_its_jobs_and_a_cancel_takes_effect(owner, start, tmp_path):
    options = {"BATCH_SIZE": "1", "STALL_SECONDS": "5"}  # a start under load must not be a stall
    hanging = start("generation-1", **options)
    until(lambda: Worker.objects.count() == 1)
    (tmp_path / "generation-1").write_text("hang")
    canceled = submission.submit(owner, JobRequest(variant="vase", seed=1))
    until(lambda: Job.objects.filter(status="running").exists())
    behind = submission.submit(owner, JobRequest(variant="vase", seed=2))
    jobs.cancel(canceled.id)

    assert hanging.wait(180) == EXIT_STALLED
    assert "worker_stalled" in hanging.log.read_text()
    (tmp_path / "generation-1").unlink()
    start("generation-1", **options)
    until(lambda: Job.objects.get(id=behind.id).status == "succeeded")
    assert Job.objects.get(id=canceled.id).status == "canceled"
