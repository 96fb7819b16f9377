"""Which rows refer to which stored files, and the lock between a row that begins to and a file that goes.

Whoever writes a row that refers to files takes their locks first, until the end of the transaction, and then looks
whether they are there. Whoever removes files takes their locks alone, without waiting, and then looks whether a row
refers to them. So either the one sees the row or the other sees that the file is gone. Decides nothing about images.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import structlog
from django.conf import settings
from django.db import connection, transaction
from django.db.models import Exists, OuterRef, QuerySet
from django.utils.module_loading import import_string

from generation.errors import StorageFailed
from generation.images import storage
from generation.infra.prepared import Statement
from generation.models import Image, Job

log = structlog.get_logger(__name__)

AT_ONCE = 200  # files removed in one transaction: whoever asks for one of them again waits so long


@dataclass(frozen=True)
class Removed:
    """A file that went away."""

    name: str
    size_bytes: int


def hold(names: Collection[str]) -> None:
    """Keep these files from being removed until the transaction ends. They may be gone already: look after this."""
    if names:
        with connection.cursor() as cursor:
            cursor.execute(_HOLD.call(), {"files": list(names)})


# For statements that hold files with what else they do.
HOLD = "SELECT pg_advisory_xact_lock_shared(hashtextextended('file ' || name, 0)) FROM unnest(%(files)s::text[]) name"
_HOLD = Statement(HOLD)


def in_use(names: Sequence[str], *, without: QuerySet[Job] | None = None) -> set[str]:
    """Of these files those that a row refers to. without: as if the images of these jobs were gone already."""
    used = _of_images(names) if without is None else _of_images_without(names, without)
    for path in settings.FILES_IN_USE:
        used |= import_string(path)([name for name in names if name not in used])
    return used


def _of_images(names: Sequence[str]) -> set[str]:
    # One row is enough for an answer, however many jobs share a file.
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT name FROM unnest(%s::text[]) name"
            " WHERE EXISTS (SELECT 1 FROM generation_image WHERE file = name)"
            " OR EXISTS (SELECT 1 FROM generation_image WHERE master = name)",
            [list(names)],
        )
        return {name for (name,) in cursor.fetchall()}


def _of_images_without(names: Sequence[str], jobs: QuerySet[Job]) -> set[str]:
    rest = Image.objects.filter(~Exists(jobs.filter(pk=OuterRef("job_id")).order_by())).order_by()
    used: set[str] = set()
    for field in ("file", "master"):
        used |= set(rest.filter(**{f"{field}__in": names}).values_list(field, flat=True).distinct())
    return used


def remove(names: Collection[str]) -> list[Removed]:
    """Remove those that no row refers to, with their thumbnails. What is being used at this moment stays.

    Call after the rows are gone, outside of their transaction. What the storage refuses to remove stays.
    """
    ordered = sorted(names)
    found: list[Removed] = []
    for start in range(0, len(ordered), AT_ONCE):
        with transaction.atomic():
            free = _lock_alone(ordered[start : start + AT_ONCE])
            used = in_use(free)
            gone = with_thumbnails(name for name in free if name not in used)
            found += [one for one in storage.at_once(_remove, gone) if one is not None]
    return found


def with_thumbnails(names: Iterable[str]) -> list[str]:
    """These files, and where their thumbnails lie if they have any."""
    own = list(names)
    return own + [storage.thumbnail_name(name) for name in own if name.endswith(".png")]


def sizes(names: Sequence[str]) -> list[Removed]:
    """Of those that are there: what `remove` would return if nothing referred to them."""
    found = storage.at_once(storage.size, names)
    return [
        Removed(name, size) for name, size in zip(names, found, strict=True) if size is not None
    ]


def _lock_alone(names: Sequence[str]) -> list[str]:
    """Those that nobody holds. Without waiting: a wait for each other would be a deadlock."""
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
