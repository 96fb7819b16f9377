"""Cancel-After: a job that has not finished in time is canceled in any state, with its reason."""

from datetime import timedelta

import pytest
from django.utils import timezone

from generation.jobs import claiming, completion, retrying
from generation.jobs import lifecycle as jobs
from generation.models import Job
from tests.factories import make_job

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_server")]

SOON = timedelta(minutes=1)


def past() -> dict:
    now = timezone.now()
    return {"created_at": now - SOON, "cancel_at": now - timedelta(seconds=1)}


def test_a_job_that_has_not_begun_in_time_is_canceled_and_never_claimed():
    job = make_job(**past())
    assert claiming.take("worker-1", batch_size=8, lease_seconds=60).jobs == ()

    assert jobs.end_overdue() == 1

    job.refresh_from_db()
    assert (job.status, job.error_code) == (Job.Status.CANCELED, "deadline_before_start")
    assert "within 59 s" in job.error_detail


def test_a_running_job_loses_its_claim_at_its_deadline():
    job = make_job(status=Job.Status.RUNNING, **past())
    claim = jobs.Claim.of(job)

    assert jobs.end_overdue() == 1

    job.refresh_from_db()
    assert (job.status, job.error_code) == (Job.Status.CANCELED, "deadline_while_running")
    assert jobs.held([claim], extend=False) == set()
    assert completion.commit([completion.Result(job, [], 0.1)]) == [claim]


def test_ended_jobs_and_jobs_before_their_deadline_are_not_changed():
    ended = make_job(status=Job.Status.SUCCEEDED, **past())
    has_time = make_job(cancel_at=timezone.now() + SOON)
    endless = make_job()

    assert jobs.end_overdue() == 0

    assert [Job.objects.get(id=job.id).status for job in (ended, has_time, endless)] == [
        "succeeded", "queued", "queued",
    ]  # fmt: skip
    assert claiming.take("worker-1", batch_size=8, lease_seconds=60).jobs


def test_a_canceled_job_that_is_retried_has_no_deadline():
    job = make_job(**past())
    jobs.end_overdue()

    assert retrying.retry_these([job.id]) == [job.id]
    assert jobs.end_overdue() == 0


def test_a_job_canceled_by_its_client_has_that_reason():
    job = jobs.cancel(make_job().id)

    assert (job.status, job.error_code) == (Job.Status.CANCELED, "canceled_by_client")
