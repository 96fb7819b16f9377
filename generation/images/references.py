"""References of rows to stored files, and the lock between inserting a reference and removing a file.

A transaction that inserts references first takes shared locks on the files, then checks that they exist. Removal takes
exclusive locks without waiting, then checks that no row refers to the files. So either the removal sees the row, or the
transaction sees that the file is missing.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import structlog
from django.conf import settings
from django.db import connection, transaction
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.utils.module_loading import import_string

from generation.errors import StorageFailed
from generation.images import storage
from generation.models import Image, Job, StockedImage, VariantImage

log = structlog.get_logger(__name__)

AT_ONCE = 200  # files removed per transaction, for which transactions with references to them wait


@dataclass(frozen=True)
class Removed:
    """A removed file."""

    name: str
    size_bytes: int


def hold(names: Collection[str]) -> None:
    """Lock these files against removal until the transaction ends. The caller then checks that they exist."""
    if names:
        with connection.cursor() as cursor:
            cursor.execute(HOLD, {"files": list(names)})


# The same lock, for use inside other statements.
HOLD = "SELECT pg_advisory_xact_lock_shared(hashtextextended('file ' || name, 0)) FROM unnest(%(files)s::text[]) name"


def in_use(names: Sequence[str], *, without: QuerySet[Job] | None = None) -> set[str]:
    """Return the files that a row refers to. without: jobs whose images do not count."""
    used = _of_images(names) if without is None else _of_images_without(names, without)
    used |= _of_stock(names)
    used |= set(VariantImage.objects.filter(file__in=names).values_list("file", flat=True))
    for path in settings.FILES_IN_USE:
        used |= import_string(path)([name for name in names if name not in used])
    return used


def _of_images(names: Sequence[str]) -> set[str]:
    # EXISTS stops at the first of many jobs that share a file.
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT name FROM unnest(%s::text[]) name"
            " WHERE EXISTS (SELECT 1 FROM generation_image WHERE file = name)"
            " OR EXISTS (SELECT 1 FROM generation_image WHERE master = name)",
            [list(names)],
        )
        return {name for (name,) in cursor.fetchall()}


def _of_stock(names: Sequence[str]) -> set[str]:
    found = StockedImage.objects.filter(Q(file__in=names) | Q(master__in=names)).order_by()
    return {name for row in found.values_list("file", "master") for name in row}


def _of_images_without(names: Sequence[str], jobs: QuerySet[Job]) -> set[str]:
    rest = Image.objects.filter(~Exists(jobs.filter(pk=OuterRef("job_id")).order_by())).order_by()
    used: set[str] = set()
    for field in ("file", "master"):
        used |= set(rest.filter(**{f"{field}__in": names}).values_list(field, flat=True).distinct())
    return used


def remove(names: Collection[str]) -> list[Removed]:
    """Remove files that no row refers to, with their thumbnails. Files that are locked are kept.

    Call after the rows are deleted, outside of their transaction. Files that the storage cannot remove are kept.
    """
    ordered = sorted(names)
    found: list[Removed] = []
    for start in range(0, len(ordered), AT_ONCE):
        with transaction.atomic():
            free = _lock_exclusively(ordered[start : start + AT_ONCE])
            used = in_use(free)
            gone = with_thumbnails(name for name in free if name not in used)
            found += [one for one in storage.at_once(_remove, gone) if one is not None]
    return found


def with_thumbnails(names: Iterable[str]) -> list[str]:
    """Return these files and the names of their thumbnails."""
    own = list(names)
    return own + [storage.thumbnail_name(name) for name in own if name.endswith(".png")]


def sizes(names: Sequence[str]) -> list[Removed]:
    """Return the existing files with their sizes, without removing them."""
    found = storage.at_once(storage.size, names)
    return [
        Removed(name, size) for name, size in zip(names, found, strict=True) if size is not None
    ]


def _lock_exclusively(names: Sequence[str]) -> list[str]:
    """Return the files that could be locked exclusively without waiting, which could deadlock."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT name FROM unnest(%s::text[]) name"
            " WHERE pg_try_advisory_xact_lock(hashtextextended('file ' || name, 0))",
            [list(names)],
        )
        return [name for (name,) in cursor.fetchall()]


def _remove(name: str) -> Removed | None:
    try:
        size_bytes = storage.size(name)
        if size_bytes is None:
            return None
        storage.remove(name)
    except StorageFailed as error:
        log.warning("file_not_removed", file=name, error=error.detail)
        return None
    return Removed(name, size_bytes)
