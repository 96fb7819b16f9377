"""Completion of a batch."""

import pytest
from django.db import OperationalError

from generation.infra import notifications
from generation.jobs import completion
from generation.jobs import lifecycle as jobs
from generation.models import Job
from generation.worker import writing
from tests import painter
from tests.people import make_job

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis_server")]


def finish() -> None:
    claimed = jobs.claim("worker-1").jobs
    assert painter.finish(claimed, device_seconds=0.25, encode_seconds=0.125) == []


def test_seconds_of_a_batch_that_is_committed_again_are_counted_once(monkeypatch):
    job = make_job(device_seconds=0.5)  # of an attempt that failed
    succeed, failed = completion._succeed, []

    def fail_once(*arguments):
        moved = succeed(*arguments)
        if not failed:
            failed.append(True)
            raise OperationalError("PostgreSQL restarts")
        return moved

    monkeypatch.setattr(completion, "_succeed", fail_once)
    commit = completion.commit
    monkeypatch.setattr(completion, "commit", lambda r: writing.patiently(lambda: commit(r)))
    finish()

    ended = Job.objects.get(id=job.id)
    assert (ended.status, ended.device_seconds, ended.encode_seconds) == ("succeeded", 0.75, 0.125)


def test_the_status_is_published_to_those_who_wait(redis_server):
    job = make_job()
    with redis_server.pubsub() as hearing:
        hearing.subscribe(f"{notifications.CHANNEL_PREFIX}{job.id}")
        finish()
        messages = [hearing.get_message(timeout=60) for _ in range(3)]

    assert [message["data"] for message in messages if message][1:] == ["running", "succeeded"]
