"""Life cycle of a job: all changes of its status, each an update filtered on the old status.

queued ─claim→ running ─commit→ succeeded          cancel: queued or running → canceled
   ↑─────────── settle (retryable, lost, released)  settle: running → failed when attempts are exhausted
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import structlog
from django.conf import settings
from django.db import IntegrityError, OperationalError, transaction
from django.db.models import Q, QuerySet, prefetch_related_objects
from django.db.models.expressions import CombinedExpression
from django.db.models.functions import Now

from generation.errors import (
    CANCELED_BY_CLIENT,
    DEADLINE_BEFORE_START,
    DEADLINE_WHILE_RUNNING,
)
from generation.images.store import StoredImage
from generation.infra import database, heartbeat, notifications, queues
from generation.jobs import claiming, failures, reading, rows
from generation.jobs.after_commit import Defer, Report
from generation.jobs.claiming import Claimed
from generation.jobs.failures import Failure
from generation.models import Attempt, Image, Job, Release
from generation.webhooks import endpoints as webhooks

log = structlog.get_logger(__name__)

Status = Job.Status
Outcome = Attempt.Outcome
CLAIM_TRIES = 10


@dataclass(frozen=True)
class Claim:
    """A worker's claim on a job. The attempt number is the fencing token that a result must present."""

    job_id: UUID
    attempt: int

    @classmethod
    def of(cls, job: Job) -> "Claim":
        """Return the claim on a job that `claim` returned."""
        return cls(job.id, job.attempt)


def move(jobs: QuerySet[Job], *, to: Status, **fields: Any) -> int:
    """Change the status of jobs. Claims (`claiming.TAKE`) and successes (`completion.SUCCEED`) have their own SQL.

    Return how many rows changed. Filter `jobs` on the old status and token, and check the count.
    """
    fields["lease_expires_at"] = None
    if to in Job.TERMINAL:
        fields.setdefault("finished_at", Now())  # retention compares it with PostgreSQL's clock
    return jobs.update(status=to, **fields)


def _held(claim: Claim) -> QuerySet[Job]:
    return Job.objects.filter(id=claim.job_id, status=Status.RUNNING, attempt=claim.attempt)


def _lease_end() -> CombinedExpression:
    """Return the end of a lease by PostgreSQL's clock, since the workers' clocks may differ."""
    return Now() + timedelta(seconds=settings.LEASE_SECONDS)


def _end_attempt(claim: Claim, outcome: Attempt.Outcome, **fields: Any) -> None:
    Attempt.objects.filter(
        job_id=claim.job_id, number=claim.attempt, outcome=Outcome.RUNNING
    ).update(outcome=outcome, ended_at=Now(), **fields)


# --- claim and hold -------------------------------------------------------------------------------
def wanted_kind(queue: str) -> str | None:
    """Return the kind of releases whose jobs the workers of this queue claim; None = all.

    Jobs of a teacher belong to the queue `reference`; while that has no worker and is not paused, the other workers
    claim them too.
    """
    if queue == queues.REFERENCE:
        return Release.Kind.TEACHER
    return Release.Kind.STUDENT if queues.is_split() else None


@dataclass(frozen=True)
class Served:
    """Values that a worker reads before a claim: `wanted_kind`, releases by pk, and whether its queue has another
    living worker.
    """

    kind: str | None
    releases: Mapping[int, Release]
    has_peer: bool = False


def claim(
    worker_name: str,
    *,
    queue: str = queues.GENERATION,
    served: Served | None = None,
    without: Collection[int] = (),
    only: Collection[int] | None = None,
    limits: Mapping[str, int] | None = None,
    defer: Defer | None = None,
) -> Claimed:
    """Claim the next batch of compatible jobs for this worker. Return it; it is empty if there is none.

    served: by default read here. without: pks of releases whose jobs are left to other workers; only, limits: see
    `claiming.take`. defer: see Report; by default notifications are sent before the jobs are returned.
    """
    if served is None:
        has_peer = heartbeat.living(queue).exclude(name=worker_name).exists()
        served = Served(wanted_kind(queue), {}, has_peer)
    for _ in range(CLAIM_TRIES):
        try:
            taken = claiming.take(
                worker_name,
                batch_size=settings.BATCH_SIZE,
                lease_seconds=settings.LEASE_SECONDS,
                queue=queue,
                kind=served.kind,
                without=without,
                only=only,
                has_peer=served.has_peer,
                limits=limits,
            )
        except (IntegrityError, OperationalError) as error:
            # Another worker claimed an identical job (unique key, or a deadlock of two such pairs): try again.
            is_deadlock = database.sqlstate(error) == "40P01"
            if isinstance(error, OperationalError) and not is_deadlock:
                raise
            continue
        if taken.jobs:
            _attach_release_and_embedding(taken.jobs, served.releases)
            with transaction.atomic():  # only for on_commit: the claim is already committed
                _report_claimed(taken, Report(defer))
            return taken
        if not is_work_waiting(worker_name, queue=queue, served=served, without=without, only=only):
            break
    return Claimed()


def is_work_waiting(
    worker_name: str,
    *,
    queue: str,
    served: Served,
    without: Collection[int] = (),
    only: Collection[int] | None = None,
) -> bool:
    """Return whether this worker could claim a job. Parameters: see `claim`."""
    oldest = claiming.oldest(
        worker_name,
        queue=queue,
        kind=served.kind,
        without=without,
        only=only,
        has_peer=served.has_peer,
    )
    return oldest is not None


def _report_claimed(claimed: Claimed, report: Report) -> None:
    for job in claimed.jobs:
        report.moved(
            job.id,
            job.status,
            "job_claimed",
            attempt=job.attempt,
            worker=job.worker_name,
            jobs=len(claimed.jobs),
        )
        if job.started_at:
            waited = job.started_at - job.created_at
            report.observe("retort_queue_seconds", waited.total_seconds())
    if claimed.has_webhooks:
        report.deliver()


def _attach_release_and_embedding(taken: Sequence[Job], known: Mapping[int, Release]) -> None:
    """Set release and embedding of each job. known: releases by pk that need not be read."""
    release = known.get(taken[0].release_id)  # the same for the whole batch
    if release is None:
        release = Release.objects.get(pk=taken[0].release_id)
    embeddings = reading.embeddings({job.embedding_id for job in taken})
    for job in taken:
        job.release = release
        job.embedding = embeddings[job.embedding_id]
    # For the metadata of files. Read here, because the threads that write files have no connection.
    prefetch_related_objects([job for job in taken if job.has_metadata], "variant")


def held(claims: Iterable[Claim], *, extend: bool) -> set[Claim]:
    """Return the claims that are still held: neither canceled nor rescued. `extend` renews their leases.

    Rows locked by other transactions are skipped, and renewed the next time.
    """
    wanted = {claim.job_id: claim for claim in claims}
    if not wanted:
        return set()
    rows = Job.objects.filter(
        Q(*(Q(id=c.job_id, attempt=c.attempt) for c in wanted.values()), _connector=Q.OR),
        status=Status.RUNNING,
    )
    if extend:
        with transaction.atomic():
            free = rows.select_for_update(skip_locked=True, no_key=True)
            ids = list(free.values_list("id", flat=True))
            rows.filter(id__in=ids).update(lease_expires_at=_lease_end())
    return {wanted[job_id] for job_id in rows.values_list("id", flat=True)}


# --- end ------------------------------------------------------------------------------------------
def answer(job: Job, stored: Sequence[StoredImage], how: Job.Cache, report: Report) -> bool:
    """Finish a queued job with existing images. Return False if it is no longer queued.

    Call it in the transaction that locks their files (`images.hold`). how: recorded on the job.
    """
    now = database.now()
    queued = Job.objects.filter(id=job.id, status=Status.QUEUED)
    if not move(queued, to=Status.SUCCEEDED, cache=how, finished_at=now):
        return False
    job.status, job.cache, job.finished_at = Status.SUCCEEDED, how, now
    rows.insert(image_rows(job, stored))
    finished(job, report)
    return True


def image_rows(job: Job, stored: Sequence[StoredImage]) -> list[Image]:
    """Return the job's images as rows to insert, in order of index."""
    return [
        Image(
            job=job,
            index=index,
            **vars(image)
            | {
                "seed": job.seed + index if image.seed is None else image.seed,
                "failing": list(image.failing),
            },
        )
        for index, image in enumerate(stored)
    ]


def finished(job: Job, report: Report, **facts: Any) -> None:
    """Add the end of a job to the report and the outbox, in the transaction that ends it. facts: for the log."""
    report.moved(job.id, job.status, f"job_{job.status}", cache=job.cache, **facts)
    report.count("retort_jobs_total", outcome=job.status)
    if job.status == Status.SUCCEEDED and job.finished_at:
        report.count("retort_cache_total", result=job.cache)
        report.count("retort_images_total", job.n)
        report.observe("retort_job_seconds", (job.finished_at - job.created_at).total_seconds())
    if webhooks.ended(job):
        report.deliver()


def settle(
    claim: Claim,
    outcome: Attempt.Outcome,
    failure: Failure | None = None,
    *,
    only_expired: bool = False,
) -> Status | None:
    """End an attempt without images. Return the new status, queued or failed; None if the claim was no longer held.

    A released attempt (the worker stops, or the infrastructure failed) is not a failure of the job. After a failure the
    next attempt is delayed. only_expired: do nothing unless the lease has expired and the row is not locked.
    """
    failure = failure or Failure("", "")
    with transaction.atomic():
        rows = _held(claim)
        if only_expired:
            rows = rows.filter(lease_expires_at__lt=Now())
        # NO KEY: inserting a row that refers to the job takes a KEY SHARE lock.
        job = rows.select_for_update(skip_locked=only_expired, no_key=True).first()
        if job is None:
            return None
        if failure.is_infrastructure and not failures.may_be_caused_by(job, failure):
            outcome = Outcome.RELEASED
        count = job.failures + (outcome != Outcome.RELEASED)
        exhausted = count >= settings.MAX_ATTEMPTS
        to = (
            Status.QUEUED
            if outcome == Outcome.RELEASED or (failure.retryable and not exhausted)
            else Status.FAILED
        )
        facts = {"error_code": failure.code, "error_detail": failure.detail}
        error = facts if to == Status.FAILED else {}
        pause = failures.not_before(job, outcome, failure) if to == Status.QUEUED else None
        move(_held(claim), to=to, failures=count, not_before=pause, **error)
        _end_attempt(claim, outcome, error_class=failures.error_class(outcome, failure), **facts)
        report = Report()
        report.moved(
            job.id,
            to,
            f"job_{to}",
            attempt=claim.attempt,
            outcome=str(outcome),
            code=failure.code,
            detail=failure.detail,
        )
        report.count("retort_attempts_total", outcome=outcome)
        if to == Status.FAILED:
            report.count("retort_jobs_total", outcome=to)
            if webhooks.ended(job):
                report.deliver()
        report.wake()  # also after a failure: an identical job may wait for this one
    return to


def give_back_unknown(worker_name: str, *, known: Collection[Claim]) -> None:
    """Release a worker's running jobs that it does not know: the commit of their claim was not acknowledged."""
    mine = Job.objects.filter(status=Status.RUNNING, worker_name=worker_name)
    unknown = {Claim(*row) for row in mine.values_list("id", "attempt")} - set(known)
    for claim in unknown:
        settle(claim, Outcome.RELEASED, Failure("", "The claim was not acknowledged."))


# --- from outside ---------------------------------------------------------------------------------
def cancel(job_id: UUID) -> Job:
    """Cancel a job that has not ended, and return it. A worker drops it between two steps."""
    with transaction.atomic():
        job = Job.objects.select_for_update(no_key=True).get(id=job_id)
        if not job.is_terminal:
            _cancel(job, CANCELED_BY_CLIENT, "The job was canceled before it finished.")
    return job


def end_overdue(job_id: UUID | None = None) -> int:
    """Cancel all jobs, or only this one, whose cancel_at has passed. Return how many. Any process may call it."""
    overdue = Job.objects.filter(status__in=(Status.QUEUED, Status.RUNNING), cancel_at__lte=Now())
    if job_id is not None:
        overdue = overdue.filter(id=job_id)
    ended = 0
    for found in overdue.order_by("cancel_at").values_list("id", flat=True)[:1000]:
        with transaction.atomic():
            job = overdue.select_for_update(skip_locked=True, no_key=True).filter(id=found).first()
            if job is not None and job.cancel_at is not None:
                began = job.started_at is not None
                code = DEADLINE_WHILE_RUNNING if began else DEADLINE_BEFORE_START
                seconds = (job.cancel_at - job.created_at).total_seconds()
                what = "did not finish" if began else "did not start"
                _cancel(job, code, f"It {what} within {seconds:g} s of its submission.")
                ended += 1
    return ended


def _cancel(job: Job, code: str, detail: str) -> None:
    """Cancel a locked job that has not ended."""
    move(Job.objects.filter(id=job.id), to=Status.CANCELED, error_code=code, error_detail=detail)
    _end_attempt(Claim(job.id, job.attempt), Outcome.CANCELED)
    job.refresh_from_db()
    report = Report()
    finished(job, report, code=code)
    report.wake()  # an identical job may wait for this one


def progress(job: Job) -> int:
    """Return the percentage that the worker reported last."""
    if job.status == Status.SUCCEEDED:
        return 100
    return notifications.progress(job.id) if job.status == Status.RUNNING else 0
