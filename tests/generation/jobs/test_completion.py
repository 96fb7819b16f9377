"""Completion of a batch."""

import errno
import os

import pytest
from django.db import OperationalError, connection

from generation.images import store as images
from generation.infra import notifications
from generation.jobs import completion
from generation.jobs import lifecycle as jobs
from generation.models import Image, Job
from generation.worker import writing
from tests import fake_worker
from tests.factories import make_job

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis_server")]


def finish() -> None:
    claimed = jobs.claim("worker-1").jobs
    assert fake_worker.finish(claimed, device_seconds=0.25, encode_seconds=0.125) == []


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


def test_the_status_is_published_to_waiting_clients(redis_server):
    job = make_job()
    with redis_server.pubsub() as hearing:
        hearing.subscribe(f"{notifications.CHANNEL_PREFIX}{job.id}")
        finish()
        messages = [hearing.get_message(timeout=60) for _ in range(3)]

    assert [message["data"] for message in messages if message][1:] == ["running", "succeeded"]


def test_many_identical_jobs_are_answered_in_small_transactions(settings):
    """No row is locked, and no file is made, in a transaction of more than some jobs."""
    first = make_job(key="k")
    twins = [
        make_job(key="k", variant=first.variant, embedding=first.embedding, has_metadata=True)
        for _ in range(3 * completion.IDENTICAL_AT_ONCE)
    ]
    (claimed,) = jobs.claim("worker-1").jobs
    result = fake_worker.result_of(claimed)
    answered: list[int] = []

    def in_one_transaction(*_: object) -> None:
        answered.append(Job.objects.filter(cache="shared").count())

    rendered = images.render

    def render(*arguments):
        assert not connection.in_atomic_block
        return rendered(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "render", render)
        hold = images.hold
        patch.setattr(images, "hold", lambda held: in_one_transaction() or hold(held))
        assert completion.commit([result]) == []

    at_once = completion.IDENTICAL_AT_ONCE
    assert answered == [0, at_once, 2 * at_once]
    assert Job.objects.filter(cache="shared", status="succeeded").count() == len(twins)
    assert Image.objects.count() == len(twins) + 1


def test_identical_jobs_left_by_a_stopping_worker_are_claimed_as_repeats():
    first = make_job(key="k")
    make_job(key="k", variant=first.variant, embedding=first.embedding)
    (claimed,) = jobs.claim("worker-1").jobs
    result = fake_worker.result_of(claimed)

    completion.commit(
        [result],
        answer=lambda results: completion.answer_identical(results, is_stopping=lambda: True),
    )

    claim = jobs.claim("worker-2")
    assert len(claim.jobs) == 1 and claim.repeats == {claim.jobs[0].id}


def test_a_file_that_was_not_synced_gets_no_row(monkeypatch):
    """The disk accepts a file and then fails to sync it."""
    make_job()
    claimed = jobs.claim("worker-1").jobs

    def refuse(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        fake_worker.finish(claimed)

    job = Job.objects.get()
    assert (job.status, job.images.count()) == (Job.Status.QUEUED, 0)
