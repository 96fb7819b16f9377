"""The claim: select the next batch of queued jobs and lease it to a worker, in one SQL statement.

Order: owners take turns, image by image, counting their running images. Within a turn the owner served longest ago
comes first. An owner's jobs are ordered by priority, then age. An owner of weight w (that of its next job) has w images
per turn, and its time of service is the start of its w-th latest job. The first job determines release, size and steps
of the batch; compatible jobs are added up to the batch size. A job whose last attempt gave no images runs alone, and on
another worker if one is available, so that a job that crashes workers affects no others. Of identical jobs only one
runs, and its images answer the others. From a paused queue nothing is claimed.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import connection

from generation.infra import queues
from generation.jobs import rows
from generation.models import Job

PEER_SECONDS = (
    60.0  # how long a job is left to other workers after an attempt without images on this one
)

# Owners with queued jobs and the weight of their next job, by one probe of the index job_claimable each. DISTINCT would
# read the whole index.
WAITING = """
waiting AS (
    (SELECT owner_id, weight FROM generation_job WHERE status = 'queued'
      ORDER BY owner_id, priority DESC, created_at LIMIT 1)
    UNION ALL
    SELECT q.owner_id, q.weight FROM waiting w CROSS JOIN LATERAL (
           SELECT owner_id, weight FROM generation_job WHERE status = 'queued' AND owner_id > w.owner_id
            ORDER BY owner_id, priority DESC, created_at LIMIT 1) q
)"""
# Only the first rows per owner are read from that index, however long the queue is. MATERIALIZED: computes the values
# of an owner once, not for each of its rows. Running jobs are few and all read.
CANDIDATES = f"""
{WAITING}, running AS MATERIALIZED (
    SELECT key, owner_id, n FROM generation_job WHERE status = 'running'
), owners AS MATERIALIZED (
    SELECT owner_id, weight,
           (SELECT coalesce(sum(r.n), 0) FROM running r WHERE r.owner_id = o.owner_id) AS running,
           (SELECT started_at FROM generation_job s
             WHERE s.owner_id = o.owner_id AND s.started_at IS NOT NULL
             ORDER BY s.started_at DESC OFFSET o.weight - 1 LIMIT 1) AS served_at
      FROM waiting o
), candidates AS (
    SELECT j.*, o.served_at, (o.running + coalesce(sum(j.n) OVER (
               PARTITION BY o.owner_id ORDER BY j.priority DESC, j.created_at, j.id
               ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0)) / o.weight AS turn
      FROM owners o
     CROSS JOIN LATERAL (
           SELECT q.id, q.key, q.n, q.priority, q.created_at,
                  q.not_before IS NOT NULL OR q.failures > 0 AS is_suspect,
                  q.release_id, q.width, q.height, q.num_inference_steps
             FROM generation_job q
            WHERE q.owner_id = o.owner_id AND q.status = 'queued'
              AND (q.cancel_at IS NULL OR q.cancel_at > statement_timestamp())
              AND (q.not_before IS NULL OR (q.not_before <= statement_timestamp() AND (
                   q.worker_name <> %(avoided)s::text
                   OR q.not_before < statement_timestamp() - %(avoided_for)s::float * interval '1 second')))
              AND q.key NOT IN (SELECT key FROM running)
              AND q.release_id <> ALL (%(without)s::bigint[])
              AND (SELECT paused_at FROM generation_queue WHERE name = %(queue)s::text) IS NULL
              AND (%(kind)s::text IS NULL OR q.release_id IN (
                   SELECT id FROM generation_release WHERE kind = %(kind)s::text))
              AND (%(only)s::bigint[] IS NULL OR q.release_id = ANY (%(only)s::bigint[]))
            ORDER BY q.priority DESC, q.created_at, q.id
            LIMIT %(limit)s::int
     ) j
), ranked AS (
    SELECT id, key, n, is_suspect, created_at, release_id, width, height, num_inference_steps,
           row_number() OVER (ORDER BY turn, served_at NULLS FIRST, created_at, id) AS place
      FROM candidates
)"""

# One round trip in a separate transaction. `chosen` reads without locks; `taken` locks the rows that are still queued
# and skips those that another worker is claiming (NO KEY: inserting a row that refers to the job takes a KEY SHARE
# lock). A webhook gets `start` once per job, not once per attempt.
# synchronous_commit off, without waiting for the disk: if PostgreSQL loses a claim in a crash, the job is still queued.
# jit off: compiling this statement takes longer than running it.
_JOB = rows.names(Job)
TAKE = f"""
SET LOCAL synchronous_commit TO off;
SET LOCAL jit TO off;
WITH RECURSIVE {CANDIDATES}, compatible AS (
    SELECT r.id, r.key, r.n, r.place, coalesce((%(limits)s::jsonb ->> format(
               '%%s:%%sx%%s', head.release_id, head.width, head.height))::int, %(batch_size)s) AS most
      FROM ranked r JOIN ranked head ON head.place = 1
     WHERE (r.release_id, r.width, r.height, r.num_inference_steps)
         = (head.release_id, head.width, head.height, head.num_inference_steps)
       AND (r.place = 1 OR NOT (r.is_suspect OR head.is_suspect))
     ORDER BY r.place LIMIT %(limit)s::int
), chosen AS (
    SELECT id, place, most, sum(n) OVER (ORDER BY place) AS images FROM compatible c
     WHERE NOT EXISTS (SELECT 1 FROM compatible twin WHERE twin.key = c.key AND twin.place < c.place)
), taken AS (
    SELECT j.id, c.place FROM generation_job j JOIN chosen c ON c.id = j.id
     WHERE j.status = 'queued' AND (c.place = 1 OR c.images <= c.most)
       FOR NO KEY UPDATE OF j SKIP LOCKED
), moved AS (
    UPDATE generation_job j
       SET status = 'running', attempt = attempt + 1, worker_name = %(worker)s::text,
           started_at = statement_timestamp(), not_before = NULL,
           lease_expires_at = statement_timestamp() + %(lease)s::float * interval '1 second'
      FROM taken WHERE j.id = taken.id AND j.status = 'queued'
    RETURNING j.*, taken.place
), recorded AS (
    INSERT INTO generation_attempt (job_id, number, worker_name, batch_size, outcome, error_code, error_detail,
                                    device_seconds, started_at)
    SELECT id, attempt, worker_name, (SELECT sum(n) FROM moved), 'running', '', '', 0, started_at FROM moved
), notified AS (
    INSERT INTO generation_delivery (id, owner_id, endpoint_id, job_id, event, body, status, attempts, last_error,
                                     next_attempt_at, created_at)
    SELECT gen_random_uuid(), owner_id, webhook_id, id, 'start', '', 'pending', 0, '', started_at, started_at
      FROM moved WHERE attempt = 1 AND webhook_id IS NOT NULL AND 'start' = ANY(webhook_events)
    RETURNING job_id
)
SELECT {", ".join(f"moved.{name}" for name in _JOB)},
       EXISTS (SELECT 1 FROM generation_job d
                         WHERE d.key = moved.key AND d.status = 'succeeded') AS has_twin,
       (SELECT count(*) FROM ranked) > (SELECT count(*) FROM moved) AS has_more,
       EXISTS (SELECT 1 FROM notified n WHERE n.job_id = moved.id) AS is_notified
  FROM moved ORDER BY place
"""
OLDEST = f"WITH RECURSIVE {CANDIDATES} SELECT min(created_at) FROM ranked"


@dataclass(frozen=True)
class Claimed:
    """A batch that a worker has claimed; its jobs are running."""

    jobs: tuple[Job, ...] = ()
    repeats: frozenset[UUID] = frozenset()  # ids of jobs with an identical one that has succeeded
    has_more: bool = False  # other jobs could have been claimed too
    has_webhooks: bool = False  # webhooks about the start of a job were inserted


def take(
    worker_name: str,
    *,
    batch_size: int,
    lease_seconds: float,
    queue: str = queues.GENERATION,
    kind: str | None = None,
    without: Collection[int] = (),
    only: Collection[int] | None = None,
    has_peer: bool = False,
    limits: Mapping[str, int] | None = None,
) -> Claimed:
    """Claim compatible jobs with at most `batch_size` images in total; a larger first job is claimed alone.

    queue: the worker's, which may be paused. Claim only jobs of releases of this `kind` (None = all), not with a pk in
    `without`, and with a pk in `only` (None = all). has_peer: leave jobs whose last attempt here gave no images to
    another worker. limits: smaller batch sizes, by `throughput.key_of`.
    """
    parameters = {
        **_filters(
            worker_name, queue=queue, kind=kind, without=without, only=only, has_peer=has_peer
        ),
        "limit": 4 * batch_size,
        "batch_size": batch_size,
        "limits": json.dumps(limits or {}),
        "worker": worker_name,
        "lease": lease_seconds,
    }
    with connection.cursor() as cursor:
        cursor.execute(TAKE, parameters)
        found = cursor.fetchall()
    flags = [row[len(_JOB) :] for row in found]  # has_twin, has_more, is_notified
    jobs = tuple(rows.instance(Job, _JOB, row[: len(_JOB)]) for row in found)
    return Claimed(
        jobs,
        repeats=frozenset(
            job.id for job, (has_twin, *_) in zip(jobs, flags, strict=True) if has_twin
        ),
        has_more=any(has_more for _, has_more, _ in flags),
        has_webhooks=any(is_notified for *_, is_notified in flags),
    )


def oldest(
    worker_name: str = "",
    *,
    queue: str = queues.GENERATION,
    kind: str | None = None,
    without: Collection[int] = (),
    only: Collection[int] | None = None,
    has_peer: bool = False,
) -> datetime | None:
    """Return the creation time of the oldest job that this worker could claim now, or None.

    Parameters: see `take`.
    """
    filters = _filters(
        worker_name, queue=queue, kind=kind, without=without, only=only, has_peer=has_peer
    )
    with connection.cursor() as cursor:
        cursor.execute(OLDEST, {**filters, "limit": 1})
        return cursor.fetchone()[0]


def _filters(
    worker_name: str,
    *,
    queue: str,
    kind: str | None,
    without: Collection[int],
    only: Collection[int] | None,
    has_peer: bool,
) -> dict[str, Any]:
    return {
        "queue": queue,
        "kind": kind,
        "without": list(without),
        "only": None if only is None else list(only),
        "avoided": worker_name if has_peer else "",
        "avoided_for": PEER_SECONDS,
    }
