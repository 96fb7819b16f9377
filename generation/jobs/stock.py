"""Stock: images that idle workers make in advance, with unused seeds, for frequent requests.

A request without a seed is answered at once with a stocked image, as a cache hit. Each image is used once: the
transaction that inserts the job deletes its row. The stock is bounded by number (setting STOCK), bytes and age.
"""

import json
import secrets
from collections.abc import Collection
from dataclasses import asdict
from datetime import timedelta
from typing import Any

import structlog
from django.conf import settings
from django.db import connection, transaction
from django.db.models import Q
from django.db.models.functions import Now

from generation.images import references, storage
from generation.images import store as images
from generation.images.store import StoredImage
from generation.infra import metrics, queues
from generation.jobs import quality_control
from generation.jobs.job_request import SEED_LIMIT
from generation.models import TRIES_LIMIT, Embedding, Job, PromptVariant, Release, StockedImage
from generation.releases import lifecycle

log = structlog.get_logger(__name__)

MAX_BYTES = 2**30
KEPT = timedelta(days=1)
RECENT = timedelta(days=1)  # age of the jobs that are searched for frequent requests
RECENT_JOBS = 2000  # at most so many jobs are searched
OFTEN = 3  # jobs from which a request counts as frequent

# SKIP LOCKED: skips an image that another request is taking.
TAKE = """
DELETE FROM generation_stockedimage WHERE id = (
    SELECT id FROM generation_stockedimage
     WHERE embedding_id = %s AND release_id = %s AND width = %s AND height = %s AND format = %s AND max_tries = %s
       AND created_at > statement_timestamp() - %s
     ORDER BY created_at LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING image
"""
# The request with the fewest stocked images, then the most frequent one. Variants are stocked with their current text.
WANTED = """
SELECT often.* FROM (
    SELECT release_id, variant_id, embedding_id, width, height, output_format, count(*) AS jobs
      FROM (SELECT * FROM generation_job WHERE created_at > statement_timestamp() - %(recent)s
             ORDER BY created_at DESC, id DESC LIMIT %(recent_jobs)s) job
     WHERE n = 1 AND NOT has_metadata AND release_id = ANY (%(releases)s)
     GROUP BY 1, 2, 3, 4, 5, 6 HAVING count(*) >= %(often)s
) often
  JOIN generation_promptvariant variant ON variant.id = often.variant_id AND variant.status = 'active'
  JOIN generation_embedding embedding ON embedding.id = often.embedding_id AND embedding.text = variant.text
 CROSS JOIN LATERAL (
    SELECT count(*) AS stocked FROM generation_stockedimage s
     WHERE s.embedding_id = often.embedding_id AND s.release_id = often.release_id AND s.width = often.width
       AND s.height = often.height AND s.format = often.output_format
       AND s.created_at > statement_timestamp() - %(kept)s
 ) found
 WHERE stocked < %(stock)s
   AND NOT EXISTS (SELECT 1 FROM generation_queue WHERE name = %(queue)s AND paused_at IS NOT NULL)
   AND (SELECT coalesce(sum(size_bytes), 0) FROM generation_stockedimage) < %(most_bytes)s
 ORDER BY stocked, jobs DESC, often.embedding_id LIMIT 1
"""


def fits(job: Job) -> bool:
    """Return whether a stocked image may answer this job, which requests no seed."""
    return settings.STOCK > 0 and job.n == 1 and not job.has_metadata


def take(job: Job) -> list[StoredImage] | None:
    """Take a stocked image for this job, set its seed on the job, and return it; None if there is none.

    Call it in the transaction that inserts the job.
    """
    asked: list[Any] = [job.embedding_id, job.release_id, job.width, job.height]
    asked += [job.output_format, job.max_tries, KEPT]
    with connection.cursor() as cursor:
        cursor.execute(TAKE, asked)
        row = cursor.fetchone()
    if row is None:
        return None
    stored = images.from_facts(json.loads(row[0]))
    # Stale if the embedding was encoded again. The files are then removed as orphans.
    if stored is None or stored.seed is None or stored.key != images.key_of(job, stored.seed):
        return None
    job.seed = stored.seed
    job.key = images.job_key(images.keys(job), max_tries=job.max_tries)
    return [stored]


def wanted(releases: Collection[int]) -> Job | None:
    """Return an unsaved job whose image should be stocked, or None. releases: pks of releases to stock."""
    if not settings.STOCK or not releases:
        return None
    facts: dict[str, Any] = {
        "releases": list(releases),
        "recent": RECENT,
        "recent_jobs": RECENT_JOBS,
        "often": OFTEN,
        "kept": KEPT,
        "stock": settings.STOCK,
        "most_bytes": MAX_BYTES,
        "queue": queues.GENERATION,
    }
    with connection.cursor() as cursor:
        cursor.execute(WANTED, facts)
        row = cursor.fetchone()
    if row is None:
        return None
    release_id, variant_id, embedding_id, width, height, output_format, _ = row
    release = Release.objects.get(pk=release_id)
    variant = PromptVariant.objects.get(pk=variant_id)
    return Job(
        variant=variant,
        release=release,
        embedding=Embedding.objects.get(pk=embedding_id),
        seed=secrets.randbelow(SEED_LIMIT - TRIES_LIMIT + 1),
        width=width,
        height=height,
        num_inference_steps=release.num_inference_steps,
        output_format=output_format,
        max_tries=quality_control.tries(variant, release),
    )


def put(job: Job, stored: StoredImage) -> None:
    """Stock the image of a job that `wanted` returned. Raises StorageFailed."""
    with transaction.atomic():
        if images.hold([stored]):
            return  # a file was just removed
        size_bytes = stored.size_bytes
        if stored.master != stored.file:
            size_bytes += storage.size(stored.master) or 0
        StockedImage.objects.create(
            release=job.release,
            variant=job.variant,
            embedding=job.embedding,
            width=job.width,
            height=job.height,
            format=job.output_format,
            max_tries=job.max_tries,
            file=stored.file,
            master=stored.master,
            size_bytes=size_bytes,
            image=asdict(stored),
            created_at=Now(),
        )
    metrics.increment("retort_stock_total", outcome="made")


def remove_spoiled() -> int:
    """Remove stocked images and their files if they are too old, of a release out of service, or if STOCK is 0.

    Return how many. Any process may call it at any time.
    """
    served = Q(release__in=Release.objects.filter(lifecycle.IN_SERVICE))
    spoiled = StockedImage.objects.all()
    if settings.STOCK:
        spoiled = spoiled.filter(Q(created_at__lt=Now() - KEPT) | ~served)
    rows = list(spoiled.values_list("pk", "file", "master"))
    if rows:
        count, _ = StockedImage.objects.filter(pk__in=[pk for pk, *_ in rows]).delete()
        references.remove({name for _, *names in rows for name in names})
        metrics.increment("retort_stock_total", count, outcome="removed")
        log.info("stock_removed", images=count)
    return len(rows)
