"""Estimate of a job's end from its position in the queue and the measured time per image.

The position follows the order of `generation.jobs.claiming`: owners take turns, so each other owner contributes at most
as many jobs as precede this one among its own owner's. At most about MAX_AHEAD rows of an index are read, however long
the queue is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import fmean
from threading import Lock

from cachetools import TTLCache, cached
from django.conf import settings
from django.db import connection
from django.utils import timezone

from generation.infra import heartbeat, queues
from generation.jobs import claiming, throughput
from generation.jobs.throughput import Seconds
from generation.models import Job, Queue, Release, Worker

MAX_AHEAD = 1000
LOADS_FIRST = "A worker loads the model first, which can take a while."
REMEMBERED_SECONDS = 1.0  # cache time of workers and measurements: many clients poll at once

# Two ranges of the index job_claimable for the owner's own jobs, and as many rows of each other owner's. ORDER BY must
# match the index, or PostgreSQL may read the whole queue by a smaller one.
PLACE = """
WITH RECURSIVE own AS (
    SELECT n FROM (SELECT q.n FROM generation_job q
      WHERE q.owner_id = %(owner)s AND q.status = 'queued' AND q.priority > %(priority)s {lane}
      ORDER BY q.priority DESC, q.created_at LIMIT %(most)s) higher
    UNION ALL
    SELECT n FROM (SELECT q.n FROM generation_job q
      WHERE q.owner_id = %(owner)s AND q.status = 'queued' AND q.priority = %(priority)s
        AND q.created_at < %(created)s {lane}
      ORDER BY q.priority DESC, q.created_at LIMIT %(most)s) earlier
), {waiting}, others AS (
    SELECT n FROM (SELECT j.n FROM waiting w CROSS JOIN LATERAL (
        SELECT q.n FROM generation_job q
         WHERE q.owner_id = w.owner_id AND q.status = 'queued' {lane}
         ORDER BY q.priority DESC, q.created_at
         LIMIT least((SELECT count(*) FROM own), %(most)s)) j
     WHERE w.owner_id <> %(owner)s) counted
     LIMIT greatest(0, %(most)s - (SELECT count(*) FROM own))
), ahead AS (
    SELECT n FROM own UNION ALL SELECT n FROM others
)
SELECT (SELECT count(*) FROM ahead), (SELECT coalesce(sum(n), 0) FROM ahead),
       (SELECT coalesce(sum(n), 0) FROM generation_job q WHERE q.status = 'running' {lane})
"""
LANE = "AND q.release_id IN (SELECT id FROM generation_release WHERE kind = %(kind)s)"


@dataclass(frozen=True)
class Estimate:
    """position: 1 = next, 0 = running, at most MAX_AHEAD + 1. eta: seconds from now, None without measurements or
    workers. feasible: whether a live worker serves the release. reason: why none does, or why the job takes longer.
    """

    position: int
    eta_p50: float | None
    eta_p90: float | None
    feasible: bool
    reason: str = ""


def of(job: Job) -> Estimate | None:
    """Return the estimate for a job; None if it has ended."""
    if job.is_terminal:
        return None
    kind = job.release.kind
    lane, workers, is_paused = _served_by(kind)
    measured = _measured(job, workers)
    if job.status == Job.Status.RUNNING:
        started = job.started_at or job.created_at
        gone = (timezone.now() - started).total_seconds()
        own = [worker for worker in workers if worker.name == job.worker_name]
        seconds = _seconds(measured, less=gone)
        return Estimate(0, *seconds, feasible=True, reason=_loading(job, own))
    count, images, running = _ahead(job, lane)
    position = min(count, MAX_AHEAD) + 1
    if is_paused:
        reason = "The queue is paused. The job waits until it is resumed."
        return Estimate(position, None, None, feasible=False, reason=reason)
    if not workers:
        reason = f"No worker for the {kind} is ready. The job waits until one runs and has loaded its model."
        return Estimate(position, None, None, feasible=False, reason=reason)
    # On average running jobs are half done.
    before = (images + running / 2) / len(workers)
    seconds = _seconds(measured, before=before)
    return Estimate(position, *seconds, feasible=True, reason=_loading(job, workers))


def _loading(job: Job, workers: Sequence[Worker]) -> str:
    """Return LOADS_FIRST if none of these workers has loaded the job's release, else ""."""
    is_held = any(job.release_id in worker.loaded for worker in workers)
    return LOADS_FIRST if workers and not is_held else ""


def _ahead(job: Job, kind: str | None) -> tuple[int, int, int]:
    """Return the numbers of jobs and images ahead of this job, and of running images."""
    parameters: dict[str, int | str | datetime | None] = {
        "owner": job.owner_id,
        "priority": job.priority,
        "created": job.created_at,
        "most": MAX_AHEAD,
        "kind": kind,
    }
    with connection.cursor() as cursor:
        cursor.execute(
            PLACE.format(lane=LANE if kind else "", waiting=claiming.WAITING), parameters
        )
        return cursor.fetchone()


@dataclass(frozen=True)
class _Measured:
    """Seconds of the job alone, and of each image ahead of it in batches of the best size."""

    own: Seconds
    each: Seconds


def _measured(job: Job, workers: Sequence[Worker]) -> _Measured | None:
    """Return the mean of these workers' measurements, None without any."""
    key = throughput.key_of(job.release_id, job.width, job.height)
    found = []
    for curve in (throughput.parse(worker.batch_seconds, key) for worker in workers):
        size = throughput.best(curve, settings.BATCH_SIZE)
        own, batch = throughput.at(curve, job.n), throughput.at(curve, size)
        if own and batch:
            found.append(_Measured(own, batch.times(1 / size)))
    if not found:
        return None
    return _Measured(_mean([one.own for one in found]), _mean([one.each for one in found]))


def _mean(values: Sequence[Seconds]) -> Seconds:
    return Seconds(fmean(one.p50 for one in values), fmean(one.p90 for one in values))


def _seconds(
    measured: _Measured | None, *, before: float = 0.0, less: float = 0.0
) -> tuple[float | None, float | None]:
    """Return the median and 90th percentile in seconds. before: images ahead; less: seconds already passed."""
    if measured is None:
        return None, None
    own, each = measured.own, measured.each
    return (
        max(0.0, before * each.p50 + own.p50 - less),
        max(0.0, before * each.p90 + own.p90 - less),
    )


@cached(TTLCache(maxsize=8, ttl=REMEMBERED_SECONDS), lock=Lock())
def _served_by(kind: str) -> tuple[str | None, Sequence[Worker], bool]:
    """Return the kind of releases that these workers serve (None = all), the live workers, and whether their queue is
    paused.
    """
    is_split = queues.is_split()
    queue = queues.REFERENCE if is_split and kind == Release.Kind.TEACHER else "generation"
    is_paused = Queue.objects.filter(name=queue, paused_at__isnull=False).exists()
    return kind if is_split else None, list(heartbeat.living(queue)), is_paused
