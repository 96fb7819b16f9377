"""Reading of one job with what its answer shows, of its images, and of embeddings."""

from collections.abc import Collection
from uuid import UUID

from django.db import connection
from django.db.models import Model

from generation.jobs import rows
from generation.models import Embedding, Image, Job, PromptVariant, Release

_JOB = rows.names(Job)
# What the answer shows of the other rows, in the order of the fields; anything else is read when it is used.
_SHOWN: tuple[tuple[str, type[Model], list[str]], ...] = (
    ("variant", PromptVariant, ["id", "slug"]),
    ("release", Release, ["id", "name", "kind", "manifest_sha256"]),
    ("embedding", Embedding, ["id", "text"]),
)
_COLUMNS = [f"job.{name}" for name in _JOB] + [
    f"{table}.{name}" for table, _, names in _SHOWN for name in names
]
_READ = f"""
SELECT {", ".join(_COLUMNS)}
  FROM generation_job job
  JOIN generation_promptvariant variant ON variant.id = job.variant_id
  JOIN generation_release release ON release.id = job.release_id
  JOIN generation_embedding embedding ON embedding.id = job.embedding_id
 WHERE job.id = %s AND job.owner_id = %s
"""


def owned(job_id: UUID, owner_id: int | None) -> Job:
    """Return the owner's job. Raises Job.DoesNotExist."""
    with connection.cursor() as cursor:
        cursor.execute(_READ, [job_id, owner_id])
        row = cursor.fetchone()
    if row is None:
        raise Job.DoesNotExist
    job = rows.instance(Job, _JOB, row[: len(_JOB)])
    start = len(_JOB)
    for name, model, names in _SHOWN:
        setattr(job, name, rows.instance(model, names, row[start : start + len(names)]))
        start += len(names)
    return job


_IMAGE = rows.names(Image)
_IMAGES = f"SELECT {', '.join(_IMAGE)} FROM generation_image WHERE job_id = %s ORDER BY index"


def images(job_id: UUID) -> list[Image]:
    """Return the rows of the job's images, in order of index."""
    with connection.cursor() as cursor:
        cursor.execute(_IMAGES, [job_id])
        return [rows.instance(Image, _IMAGE, row) for row in cursor.fetchall()]


_EMBEDDING = rows.names(Embedding)
_EMBEDDINGS = f"SELECT {', '.join(_EMBEDDING)} FROM generation_embedding WHERE id = ANY(%s)"


def embeddings(pks: Collection[int]) -> dict[int, Embedding]:
    """Return the embeddings with these primary keys."""
    with connection.cursor() as cursor:
        cursor.execute(_EMBEDDINGS, [list(pks)])
        found = [rows.instance(Embedding, _EMBEDDING, row) for row in cursor.fetchall()]
    return {row.pk: row for row in found}
