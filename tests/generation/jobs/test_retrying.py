"""Retries by people."""

import json
from datetime import timedelta

import pytest
from django.utils import timezone

from generation.jobs import retrying
from generation.models import Delivery, Job
from generation.webhooks import endpoints, payload
from tests.factories import make_endpoint, make_job, make_release, make_user

pytestmark = pytest.mark.django_db(transaction=True)


def failed(code: str = "internal_error", *, hours_ago: float = 0, **fields) -> Job:
    at = timezone.now() - timedelta(hours=hours_ago)
    return make_job(status="failed", error_code=code, finished_at=at, failures=3, **fields)


def test_jobs_that_failed_with_one_code_in_a_period_are_queued_again(monkeypatch):
    monkeypatch.setattr(retrying, "AT_ONCE", 2)
    wanted = [failed("worker_lost", hours_ago=2) for _ in range(5)]
    failed("worker_lost", hours_ago=9)
    failed("worker_lost")
    failed("not_finite", hours_ago=2)
    failed("worker_lost", hours_ago=2, purged_at=timezone.now())
    make_job(status="canceled", error_code="worker_lost")
    now = timezone.now()
    period = {"since": now - timedelta(hours=3), "until": now - timedelta(hours=1)}

    assert retrying.retry_failed(code="worker_lost", **period, is_dry_run=True) == 5
    assert not Job.objects.filter(status="queued").exists()
    assert retrying.retry_failed(code="worker_lost", **period) == 5

    queued = Job.objects.filter(status="queued")
    assert {job.id for job in queued} == {job.id for job in wanted}
    assert {(job.failures, job.error_code, job.finished_at) for job in queued} == {(0, "", None)}
    assert retrying.retry_failed(code="worker_lost", **period) == 0


def test_the_unsent_message_about_a_jobs_end_reports_it_after_the_retry():
    job = failed(error_detail="The weights are damaged.", webhook=make_endpoint(owner=make_user()))
    Job.objects.update(webhook_events=["completed"])
    job.refresh_from_db()
    assert endpoints.ended(job)

    assert retrying.retry_failed() == 1

    delivery = Delivery.objects.get()
    payload.render([delivery])  # as at its first attempt
    message = json.loads(delivery.body)
    assert (message["type"], message["status"]) == ("prediction.completed", "failed")
    assert message["error"] == "The weights are damaged." and message["completed_at"]


def test_failed_jobs_can_be_chosen_by_release_and_owner():
    other, user = make_release(name="other"), make_user(username="other")
    failed()
    failed(release=other)
    failed(owner=user)

    assert retrying.retry_failed(release="other") == 1
    assert retrying.retry_failed(owner="other") == 1
    assert retrying.retry_failed() == 1
