"""Which queued jobs a worker takes next, and taking them: one SQL statement.

Order: owners take turns, image by image, counting what they have running; among owners on the same turn the one served
longest ago comes first; an owner's own jobs go by priority, then age. An owner of weight w, which is that of its next
job, has w images a turn, and was served when the last but w-1 of its jobs began. The first job decides release, size
and steps of the batch; others join while they fit. A job that has failed before runs alone, so that a poison job harms
nobody else; and of identical jobs only one runs, the others are answered by it.
"""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db import DEFAULT_DB_ALIAS, connection

from generation.infra.prepared import EARLY, Statement
from generation.models import Job

# Owners who wait, found one by one in the index job_claimable: DISTINCT would read all of it.
WAITING = """
waiting AS (
    (SELECT owner_id FROM generation_job WHERE status = 'queued' ORDER BY owner_id LIMIT 1)
    UNION ALL
    SELECT (SELECT q.owner_id FROM generation_job q
             WHERE q.status = 'queued' AND q.owner_id > w.owner_id ORDER BY q.owner_id LIMIT 1)
      FROM waiting w WHERE w.owner_id IS NOT NULL
)"""
# Per owner only the first rows of that index are read, however long the queue is. What is known of each is asked for
# once, not for each of its rows: hence MATERIALIZED.
CANDIDATES = f"""
{WAITING}, owners AS MATERIALIZED (
    SELECT owner_id, weight,
           (SELECT coalesce(sum(n), 0) FROM generation_job r
             WHERE r.owner_id = o.owner_id AND r.status = 'running') AS running,
           (SELECT started_at FROM generation_job s
             WHERE s.owner_id = o.owner_id AND s.started_at IS NOT NULL
             ORDER BY s.started_at DESC OFFSET o.weight - 1 LIMIT 1) AS served_at
      FROM (SELECT w.owner_id,
                   (SELECT q.weight FROM generation_job q
                     WHERE q.owner_id = w.owner_id AND q.status = 'queued'
                     ORDER BY q.priority DESC, q.created_at LIMIT 1) AS weight
              FROM waiting w WHERE w.owner_id IS NOT NULL) o
), candidates AS (
    SELECT j.*, o.served_at, (o.running + coalesce(sum(j.n) OVER (
               PARTITION BY o.owner_id ORDER BY j.priority DESC, j.created_at, j.id
               ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0)) / o.weight AS turn
      FROM owners o
     CROSS JOIN LATERAL (
           SELECT q.* FROM generation_job q
            WHERE q.owner_id = o.owner_id AND q.status = 'queued'
              AND (q.cancel_at IS NULL OR q.cancel_at > statement_timestamp())
              AND NOT EXISTS (SELECT 1 FROM generation_job r
                               WHERE r.key = q.key AND r.status = 'running')
              AND (%(kind)s::text IS NULL OR q.release_id IN (
                   SELECT id FROM generation_release WHERE kind = %(kind)s::text))
            ORDER BY q.priority DESC, q.created_at, q.id
            LIMIT %(limit)s::int
     ) j
), ranked AS (
    SELECT id, key, n, failures, created_at, release_id, width, height, num_inference_steps,
           row_number() OVER (ORDER BY turn, served_at NULLS FIRST, created_at, id) AS place
      FROM candidates
)"""

# One round trip, which is a transaction of its own. Webhooks are told of a start once a job, whatever workers are lost.
# `chosen` is a look without locks; `taken` locks what is still queued and leaves what another worker is taking.
# A claim that is lost with PostgreSQL is a job that is still queued, so nobody waits for the disk.
# Columns by name: the plan outlives a migration that adds one.
_FIELDS = Job._meta.concrete_fields
TAKE = Statement(
    f"""
WITH RECURSIVE {CANDIDATES}, compatible AS (
    SELECT r.*, row_number() OVER (PARTITION BY r.key ORDER BY r.place) AS copy
      FROM ranked r JOIN ranked head ON head.place = 1
     WHERE (r.release_id, r.width, r.height, r.num_inference_steps)
         = (head.release_id, head.width, head.height, head.num_inference_steps)
       AND (r.place = 1 OR (r.failures = 0 AND head.failures = 0))
), chosen AS (
    SELECT id, place, sum(n) OVER (ORDER BY place) AS images FROM compatible WHERE copy = 1
), taken AS (
    SELECT j.id, c.place FROM generation_job j JOIN chosen c ON c.id = j.id
     WHERE j.status = 'queued' AND (c.place = 1 OR c.images <= %(batch_size)s::int)
       FOR UPDATE OF j SKIP LOCKED
), moved AS (
    UPDATE generation_job j
       SET status = 'running', attempt = attempt + 1, worker_name = %(worker)s::text,
           started_at = statement_timestamp(),
           lease_expires_at = statement_timestamp() + %(lease)s::float * interval '1 second'
      FROM taken WHERE j.id = taken.id AND j.status = 'queued'
    RETURNING j.*, taken.place
), noted AS (
    INSERT INTO generation_attempt (job_id, number, worker_name, batch_size, outcome, error_code, error_detail,
                                    device_seconds, started_at)
    SELECT id, attempt, worker_name, (SELECT sum(n) FROM moved), 'running', '', '', 0, started_at FROM moved
), told AS (
    INSERT INTO generation_delivery (id, owner_id, endpoint_id, job_id, event, body, status, attempts, last_error,
                                     next_attempt_at, created_at)
    SELECT gen_random_uuid(), owner_id, webhook_id, id, 'start', '', 'pending', 0, '', started_at, started_at
      FROM moved WHERE attempt = 1 AND webhook_id IS NOT NULL AND 'start' = ANY(webhook_events)
    RETURNING job_id
)
SELECT {", ".join(f"moved.{field.column}" for field in _FIELDS)},
       EXISTS (SELECT 1 FROM generation_job d
                         WHERE d.key = moved.key AND d.status = 'succeeded') AS has_twin,
       (SELECT count(*) FROM ranked) > (SELECT count(*) FROM moved) AS has_more,
       EXISTS (SELECT 1 FROM told WHERE told.job_id = moved.id) AS is_told
  FROM moved ORDER BY place
""",
    settings=f"{EARLY} SET LOCAL plan_cache_mode TO force_generic_plan;",
)
OLDEST = f"WITH RECURSIVE {CANDIDATES} SELECT min(created_at) FROM ranked"


@dataclass(frozen=True)
class Claimed:
    """A batch that a worker has claimed: its jobs run now."""

    jobs: tuple[Job, ...] = ()
    repeats: frozenset[UUID] = frozenset()  # ids of jobs of which an identical one has succeeded
    has_more: bool = False  # other jobs could have been claimed too
    has_webhooks: bool = False  # about the start of a job


def take(
    worker_name: str, *, batch_size: int, lease_seconds: float, kind: str | None = None
) -> Claimed:
    """Claim compatible jobs with at most `batch_size` images together; a larger first job comes alone.

    kind: of the releases whose jobs are wanted; None = all.
    """
    parameters: dict[str, int | float | str | None] = {
        "limit": 4 * batch_size,
        "batch_size": batch_size,
        "worker": worker_name,
        "lease": lease_seconds,
        "kind": kind,
    }
    with connection.cursor() as cursor:
        cursor.execute(TAKE.call(), parameters)
        rows = cursor.fetchall()
    # By hand: `raw` takes as long to find out which column is which as PostgreSQL takes for all of it.
    names = [field.attname for field in _FIELDS]
    flags = [row[len(names) :] for row in rows]  # has_twin, has_more, is_told
    jobs = tuple(Job.from_db(DEFAULT_DB_ALIAS, names, row[: len(names)]) for row in rows)
    return Claimed(
        jobs,
        repeats=frozenset(
            job.id for job, (has_twin, *_) in zip(jobs, flags, strict=True) if has_twin
        ),
        has_more=any(has_more for _, has_more, _ in flags),
        has_webhooks=any(is_told for *_, is_told in flags),
    )


def oldest(kind: str | None = None) -> datetime | None:
    """When the oldest of the jobs that a worker could take now was made; None: there is none. kind: as for `take`."""
    with connection.cursor() as cursor:
        cursor.execute(OLDEST, {"limit": 1, "kind": kind})
        return cursor.fetchone()[0]
