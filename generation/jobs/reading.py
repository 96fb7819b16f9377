"""Queries for one job with all rows that its response shows, and for embeddings."""

from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar
from uuid import UUID

from django.db import connection
from django.db.models import Model

from generation.jobs import rows
from generation.models import Embedding, Image, Job, PromptVariant, Release

M = TypeVar("M", bound=Model)

_JOB = rows.names(Job)
# Columns of other tables in the response, in the order of the fields; other columns are deferred.
_SHOWN: tuple[tuple[str, type[Model], list[str]], ...] = (
    ("variant", PromptVariant, ["id", "slug"]),
    ("release", Release, ["id", "name", "kind", "manifest_sha256"]),
    ("embedding", Embedding, ["id", "text"]),
)
_IMAGE = rows.names(Image)
_COLUMNS = (
    [f"job.{name}" for name in _JOB]
    + [f"{table}.{name}" for table, _, names in _SHOWN for name in names]
    + [f"image.{name}" for name in _IMAGE]
)
_READ = f"""
SELECT {", ".join(_COLUMNS)}
  FROM generation_job job
  JOIN generation_promptvariant variant ON variant.id = job.variant_id
  JOIN generation_release release ON release.id = job.release_id
  JOIN generation_embedding embedding ON embedding.id = job.embedding_id
  LEFT JOIN generation_image image ON image.job_id = job.id
 WHERE job.id = %s AND job.owner_id = %s
 ORDER BY image.index
"""
# Attribute of a job with its images in order of index, if they were read with it.
IMAGES = "images_read"


def owned(job_id: UUID, owner_id: int | None) -> Job:
    """Return the owner's job, with its images as IMAGES. Raises Job.DoesNotExist."""
    with connection.cursor() as cursor:
        cursor.execute(_READ, [job_id, owner_id])
        found = [iter(row) for row in cursor.fetchall()]  # one row per image
    if not found:
        raise Job.DoesNotExist
    job = _next(Job, _JOB, found[0])
    for name, model, names in _SHOWN:
        setattr(job, name, _next(model, names, found[0]))
    skipped = len(_COLUMNS) - len(_IMAGE)
    images = [_next(Image, _IMAGE, found[0])]
    images += [_next(Image, _IMAGE, islice(row, skipped, None)) for row in found[1:]]
    setattr(job, IMAGES, [image for image in images if image.pk is not None])
    return job


def _next(model: type[M], columns: Sequence[str], row: Iterator[Any]) -> M:
    return rows.instance(model, columns, list(islice(row, len(columns))))


_EMBEDDING = rows.names(Embedding)
_EMBEDDINGS = f"SELECT {', '.join(_EMBEDDING)} FROM generation_embedding WHERE id = ANY(%s)"


def embeddings(pks: Collection[int]) -> dict[int, Embedding]:
    """Return the embeddings with these primary keys."""
    with connection.cursor() as cursor:
        cursor.execute(_EMBEDDINGS, [list(pks)])
        found = [rows.instance(Embedding, _EMBEDDING, row) for row in cursor.fetchall()]
    return {row.pk: row for row in found}
