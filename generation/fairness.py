"""Which queued jobs a worker should take next, as one query. Reads only; `generation.jobs` claims.

Order: owners take turns, image by image, counting what they have running; among owners on the same turn the one served
longest ago comes first; an owner's own jobs go by priority, then age. The first job decides release, size and steps of
the batch; others join while they fit. A job that has failed before runs alone, so that a poison job harms nobody else;
and of identical jobs only one runs, the others are answered by it.
"""

from uuid import UUID

from django.db import connection

# Per owner only the first `limit` rows of the index job_claimable are read, however long the queue is.
NEXT = """
WITH owners AS (
    SELECT owner_id,
           (SELECT coalesce(sum(n), 0) FROM generation_job r
             WHERE r.owner_id = o.owner_id AND r.status = 'running') AS running,
           (SELECT max(started_at) FROM generation_job s
             WHERE s.owner_id = o.owner_id AND s.started_at IS NOT NULL) AS served_at
      FROM (SELECT DISTINCT owner_id FROM generation_job WHERE status = 'queued') o
), candidates AS (
    SELECT j.*, o.served_at, o.running + row_number() OVER (
               PARTITION BY o.owner_id ORDER BY j.priority DESC, j.created_at, j.id) AS turn
      FROM owners o
     CROSS JOIN LATERAL (
           SELECT q.* FROM generation_job q
            WHERE q.owner_id = o.owner_id AND q.status = 'queued'
              AND NOT EXISTS (SELECT 1 FROM generation_job r WHERE r.key = q.key AND r.status = 'running')
            ORDER BY q.priority DESC, q.created_at, q.id
            LIMIT %(limit)s
     ) j
)
SELECT id, key, n, failures, release_id, width, height, num_inference_steps
  FROM candidates
 ORDER BY turn, served_at NULLS FIRST, created_at, id
 LIMIT %(limit)s
"""


def next_batch(batch_size: int) -> list[UUID]:
    """Ids of compatible queued jobs with at most `batch_size` images together (a larger first job comes alone)."""
    with connection.cursor() as cursor:
        cursor.execute(NEXT, {"limit": 4 * batch_size})
        rows = cursor.fetchall()
    chosen: list[UUID] = []
    keys: set[str] = set()
    images = 0
    shape = None
    for job_id, key, n, failures, *row_shape in rows:
        shape = shape or row_shape
        if row_shape != shape or key in keys or (failures and chosen):
            continue
        if chosen and images + n > batch_size:
            continue
        chosen.append(job_id)
        keys.add(key)
        images += n
        if failures or images >= batch_size:
            break
    return chosen
