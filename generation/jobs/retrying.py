"""Manual retries of chosen failed or canceled jobs, or of all failed jobs that match filters."""

from collections.abc import Collection, Sequence
from datetime import datetime
from uuid import UUID

from django.db import transaction

from generation.jobs.after_commit import Report
from generation.jobs.lifecycle import Status, move
from generation.models import Delivery, Job
from generation.webhooks import payload

AT_ONCE = 200  # jobs per transaction


def retry_failed(
    *,
    code: str = "",
    since: datetime | None = None,
    until: datetime | None = None,
    release: str = "",
    owner: str = "",
    is_dry_run: bool = False,
) -> int:
    """Queue all matching failed jobs again. Return how many. is_dry_run: only count.

    code: error code; since, until: time of failure; release, owner: names. Purged jobs are skipped. It uses many small
    transactions, and can be interrupted and repeated.
    """
    failed = Job.objects.filter(status=Status.FAILED, purged_at__isnull=True)
    filters = {
        "error_code": code,
        "finished_at__gte": since,
        "finished_at__lt": until,
        "release__name": release,
        "owner__username": owner,
    }
    failed = failed.filter(**{name: value for name, value in filters.items() if value})
    if is_dry_run:
        return failed.count()
    ids = failed.order_by("finished_at").values_list("id", flat=True)
    return len(retry_these(list(ids), ended=(Status.FAILED,)))


def retry_these(
    job_ids: Sequence[UUID], *, ended: Collection[Status] = (Status.FAILED, Status.CANCELED)
) -> list[UUID]:
    """Queue the jobs among these that have a status of `ended` and are not purged. Return their ids.

    It uses many small transactions.
    """
    return [
        moved
        for start in range(0, len(job_ids), AT_ONCE)
        for moved in _queue_again(job_ids[start : start + AT_ONCE], ended)
    ]


def _queue_again(job_ids: Collection[UUID], ended: Collection[Status]) -> list[UUID]:
    with transaction.atomic():
        again = Job.objects.filter(id__in=job_ids, status__in=ended, purged_at__isnull=True)
        found = dict(again.select_for_update(no_key=True).values_list("id", "attempt"))
        # A message that reports the end is rendered before its first attempt: later it would show a queued job.
        payload.render(list(Delivery.objects.filter(job__in=found, body="")))
        move(
            Job.objects.filter(id__in=found),
            to=Status.QUEUED,
            failures=0,
            not_before=None,
            finished_at=None,
            cancel_at=None,
            error_code="",
            error_detail="",
        )
        report = Report()
        for job_id, attempt in found.items():
            report.moved(job_id, Status.QUEUED, "job_retried", attempt=attempt)
        if found:
            report.wake()
    return list(found)
