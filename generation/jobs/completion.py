"""Completion of a batch: accept its images in one transaction."""

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import structlog
from django.db import connection, transaction
from django.db.models import QuerySet

from generation.access import quotas
from generation.errors import StorageFailed
from generation.images import references
from generation.images import store as images
from generation.images.store import StoredImage
from generation.jobs import lifecycle as jobs
from generation.jobs import rows
from generation.jobs.after_commit import Report
from generation.jobs.failures import Failure
from generation.jobs.lifecycle import Claim, Outcome, Status
from generation.models import Image, Job

log = structlog.get_logger("generation.jobs")

IDENTICAL_AT_ONCE = 20  # identical jobs that are answered in one transaction


@dataclass(frozen=True)
class Result:
    """Result of a claimed job: its images by index, and its share of the device time in seconds."""

    job: Job
    images: Sequence[StoredImage]
    device_seconds: float
    cache: Job.Cache = Job.Cache.MISS
    encode_seconds: float = 0.0  # time to encode and store its files


def commit(
    results: Sequence[Result], *, answer: Callable[[Sequence[Result]], object] | None = None
) -> list[Claim]:
    """Finish a batch in one transaction. Return the claims whose results are not kept: refused, because this worker no
    longer holds them, or settled, because a file that the result shares with another image was removed.

    answer: called after the commit with the results that have waiting identical jobs; default: `answer_identical`.
    """
    if not results:
        return []
    refused: list[Claim] = []
    by_owner: dict[int, float] = defaultdict(float)  # device seconds of owners with a quota
    by_key: dict[int, float] = defaultdict(float)
    awaited: list[Result] = []
    with transaction.atomic():
        report = Report()
        moved = _succeed(results)
        lost = _lost(results)
        if lost:
            transaction.set_rollback(True)
        else:
            for result in results:
                job = result.job
                if job.id not in moved:
                    refused.append(Claim.of(job))
                    continue
                _report(result, report)
                accepted = moved[job.id]
                if accepted.has_twin:
                    awaited.append(result)
                if accepted.is_owner_metered:
                    by_owner[job.owner_id] += result.device_seconds
                if accepted.is_key_metered and job.api_key_id is not None:
                    by_key[job.api_key_id] += result.device_seconds
            quotas.spend(owners=by_owner, keys=by_key)
    if lost:
        for claim, why in lost.items():
            jobs.settle(claim, Outcome.RELEASED, why)
        rest = [result for result in results if Claim.of(result.job) not in lost]
        return [*lost, *commit(rest, answer=answer)]
    for claim in refused:
        log.warning("result_refused", job_id=str(claim.job_id), attempt=claim.attempt)
    images.remember(image for r in results if Claim.of(r.job) not in refused for image in r.images)
    if awaited:
        (answer or answer_identical)(awaited)
    return refused


def _lost(results: Sequence[Result]) -> dict[Claim, Failure]:
    """Return the claims whose files do not exist, with the reason. Lock the other files until the transaction ends."""
    try:
        gone = images.gone([image for result in results for image in result.images])
    except StorageFailed as error:
        return {Claim.of(result.job): Failure.of(error) for result in results}
    removed = Failure("", "A file was removed before the result was accepted.")
    return {
        Claim.of(result.job): removed
        for result in results
        if any(image.file in gone for image in result.images)
    }


_IMAGE_COLUMNS = rows.names(Image)
# One round trip for the whole batch, since clients wait for it. Columns are named, so that a new column of the next
# version gets its default. Their types are the table's.
SUCCEED = f"""
WITH held AS MATERIALIZED ({references.HOLD}), made AS (
    SELECT * FROM jsonb_to_recordset(%(made)s::jsonb)
        AS r(job_id uuid, attempt int, cache text, device_seconds float, encode_seconds float)
), moved AS (
    UPDATE generation_job j
       SET status = 'succeeded', lease_expires_at = NULL, finished_at = statement_timestamp(), cache = m.cache,
           device_seconds = j.device_seconds + m.device_seconds, encode_seconds = j.encode_seconds + m.encode_seconds
      FROM made m WHERE j.id = m.job_id AND j.status = 'running' AND j.attempt = m.attempt
    RETURNING j.id, j.key, j.owner_id, j.api_key_id, j.finished_at, m.attempt, m.device_seconds
), recorded AS (
    UPDATE generation_attempt a
       SET outcome = 'succeeded', ended_at = statement_timestamp(), device_seconds = moved.device_seconds
      FROM moved WHERE a.job_id = moved.id AND a.number = moved.attempt AND a.outcome = 'running'
), inserted AS (
    INSERT INTO generation_image ({", ".join(_IMAGE_COLUMNS)})
    SELECT {", ".join(f"i.{column}" for column in _IMAGE_COLUMNS)}
      FROM jsonb_populate_recordset(NULL::generation_image, %(images)s::jsonb) i
      JOIN moved ON moved.id = i.job_id
)
SELECT id, EXISTS (SELECT 1 FROM generation_job twin WHERE twin.key = moved.key AND twin.status = 'queued'),
       EXISTS (SELECT 1 FROM generation_ownerlimits o
                WHERE o.owner_id = moved.owner_id
                  AND (o.images_per_day IS NOT NULL OR o.device_seconds_per_day IS NOT NULL)),
       EXISTS (SELECT 1 FROM generation_apikey k
                WHERE k.id = moved.api_key_id
                  AND (k.images_per_day IS NOT NULL OR k.device_seconds_per_day IS NOT NULL)),
       finished_at, (SELECT count(*) FROM held)
  FROM moved
"""


@dataclass(frozen=True)
class Accepted:
    """A job that succeeded.

    has_twin: an identical job waits; is_owner_metered, is_key_metered: the owner or the key has a daily quota.
    """

    has_twin: bool
    is_owner_metered: bool
    is_key_metered: bool
    finished_at: datetime


def _succeed(results: Sequence[Result]) -> dict[UUID, Accepted]:
    """Mark the jobs that this worker still holds as succeeded, insert their images, and lock the files.

    The locks last until the transaction ends. Return the accepted jobs by id.
    """
    made = [
        {
            "job_id": result.job.id,
            "attempt": result.job.attempt,
            "cache": result.cache,
            "device_seconds": result.device_seconds,
            "encode_seconds": result.encode_seconds,
        }
        for result in results
    ]
    made_images = [row for result in results for row in jobs.image_rows(result.job, result.images)]
    facts: dict[str, Any] = {
        "made": json.dumps(made, default=str),
        "images": json.dumps(
            [dict(zip(_IMAGE_COLUMNS, rows.values(row), strict=True)) for row in made_images],
            default=str,
        ),
        "files": sorted({file for row in made_images for file in (row.file, row.master)}),
    }
    with connection.cursor() as cursor:
        cursor.execute(SUCCEED, facts)
        moved = {row[0]: Accepted(*row[1:5]) for row in cursor.fetchall()}
    for result in results:
        job = result.job
        if accepted := moved.get(job.id):
            job.status, job.cache = Status.SUCCEEDED, result.cache
            job.finished_at = accepted.finished_at
    return moved


def _report(result: Result, report: Report) -> None:
    job = result.job
    facts = {"device_seconds": round(result.device_seconds, 4), "attempt": job.attempt}
    jobs.finished(job, report, **facts)
    report.count("retort_device_seconds_total", result.device_seconds)
    report.count("retort_attempts_total", outcome=Outcome.SUCCEEDED)
    if result.cache == Job.Cache.MISS:
        _count_findings(result.images, report)


def answer_identical(
    results: Sequence[Result], *, is_stopping: Callable[[], bool] = lambda: False
) -> None:
    """Finish the queued jobs that are identical to these with the same images.

    It uses small transactions and makes the files before each, so that rows are locked only briefly. Remaining jobs
    (the worker stops, or an image cannot be read) are claimed by a worker as repeats.
    """
    for result in results:
        queued = Job.objects.filter(key=result.job.key, status=Status.QUEUED)
        waiting = list(queued.order_by("created_at").values_list("id", flat=True))
        for start in range(0, len(waiting), IDENTICAL_AT_ONCE):
            if is_stopping():
                return
            some = queued.filter(id__in=waiting[start : start + IDENTICAL_AT_ONCE])
            try:
                _answer([(twin, _rendered(twin, result.images)) for twin in _with_metadata(some)])
            except StorageFailed as error:
                log.warning("image_unreadable", job_id=str(result.job.id), error=error.detail)
                return


def _with_metadata(twins: QuerySet[Job]) -> QuerySet[Job]:
    """Add the joins that the metadata of files needs."""
    return twins.select_related("variant", "release", "embedding").defer(
        "release__manifest", "embedding__data"
    )


def _answer(rendered: Sequence[tuple[Job, list[StoredImage]]]) -> None:
    """Answer these jobs in one transaction, except ones without images or with a missing file."""
    with transaction.atomic():
        report = Report()
        gone = images.hold([image for _, stored in rendered for image in stored])
        for twin, stored in rendered:
            if stored and not any(image.file in gone for image in stored):
                jobs.answer(twin, stored, Job.Cache.SHARED, report)
            else:
                report.wake()


def _rendered(twin: Job, stored: Sequence[StoredImage]) -> list[StoredImage]:
    """Return the images in this job's format, or [] if that fails."""
    try:
        return [images.render(twin, index, image) for index, image in enumerate(stored)]
    except (StorageFailed, OSError) as error:  # OSError: the file is not an image
        log.warning("image_unreadable", job_id=str(twin.id), error=str(error))
        return []


def _count_findings(stored: Sequence[StoredImage], report: Report) -> None:
    report.count("retort_tries_total", sum(image.tries for image in stored))
    for image in stored:
        if image.is_accepted is not None:
            outcome = "accepted" if image.is_accepted else "rejected"
            report.count("retort_judged_total", outcome=outcome)
