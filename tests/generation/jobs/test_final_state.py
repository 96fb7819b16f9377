"""What is told of a job's end is what its rows say."""

import pytest
from django.db import OperationalError

from generation.api.serializers import JobSerializer
from generation.infra import notifications
from generation.jobs import completion, final_state
from generation.jobs import lifecycle as jobs
from generation.models import Image, Job
from generation.worker import process as worker
from tests import painter
from tests.people import make_job

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis_server")]


def finish() -> None:
    claimed = jobs.claim("worker-1")
    assert painter.finish(claimed, device_seconds=0.25, encode_seconds=0.125) == []


def told_of(job: Job, monkeypatch) -> str:
    said: dict = {}
    monkeypatch.setattr(notifications, "moved", lambda _, attempts, told: said.update(told))
    finish()
    return said[job.id]


def test_who_is_told_of_an_end_need_not_read_the_rows(monkeypatch, django_assert_num_queries):
    job = make_job(n=2, device_seconds=0.5)  # of an attempt that failed
    read_before = Job.objects.select_related("variant", "release", "embedding").get(id=job.id)
    told = told_of(job, monkeypatch)

    with django_assert_num_queries(0):
        assert final_state.apply(told, read_before)
        shown = JobSerializer(read_before).data

    after = Job.objects.get(id=job.id)
    for field in Job._meta.concrete_fields:
        assert getattr(read_before, field.attname) == getattr(after, field.attname), field.name
    for image, row in zip(read_before.images.all(), after.images.order_by("index"), strict=True):
        for field in Image._meta.concrete_fields:
            assert getattr(image, field.attname) == getattr(row, field.attname), field.name
    assert shown == JobSerializer(after).data
    assert after.device_seconds == 0.75


@pytest.mark.parametrize(
    "change",
    [
        lambda told: "",
        lambda told: "no JSON",
        lambda told: "[]",
        lambda told: told.replace('"finished_at"', '"ended_at"'),
        lambda told: told.replace('"sha256"', '"digest"'),
        lambda told: told.replace('"finished_at": "20', '"finished_at": "yesterday 20'),
    ],
)
def test_what_another_version_tells_changes_nothing(monkeypatch, change):
    job = make_job()
    told = change(told_of(job, monkeypatch))

    assert not final_state.apply(told, job)
    assert (job.status, job.attempt) == ("queued", 0)


def test_a_batch_that_is_committed_again_is_told_as_its_rows_say(monkeypatch):
    job = make_job()
    succeed, failed = completion._succeed, []

    def once_in_vain(*arguments):
        moved = succeed(*arguments)
        if not failed:
            failed.append(True)
            raise OperationalError("PostgreSQL restarts")
        return moved

    monkeypatch.setattr(completion, "_succeed", once_in_vain)
    commit = completion.commit
    monkeypatch.setattr(completion, "commit", lambda r: worker._patiently(lambda: commit(r)))
    read_before = Job.objects.get(id=job.id)

    assert final_state.apply(told_of(job, monkeypatch), read_before)
    assert read_before.device_seconds == Job.objects.get(id=job.id).device_seconds == 0.25


def test_what_is_told_comes_with_the_status_to_those_who_wait(redis_server):
    job = make_job()
    with redis_server.pubsub() as hearing:
        hearing.subscribe(f"{notifications.CHANNEL_PREFIX}{job.id}")
        finish()
        messages = [hearing.get_message(timeout=5) for _ in range(3)]

    said = [str(message["data"]).partition(" ") for message in messages if message][1:]
    assert [word for word, _, _ in said] == ["running", "succeeded"]
    assert f'"job_id": "{job.id}"' in said[1][2]


def test_threads_that_write_files_leave_the_cores_to_the_one_that_generates():
    import torch

    assert worker._writers.submit(torch.get_num_threads).result() == 1
