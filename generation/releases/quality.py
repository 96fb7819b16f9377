"""Quality of a release for each prompt: its limits, and counts of right pictures in its evaluation and recent jobs.

A judged picture is right if the detector finds the content of the prompt in it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import structlog
from django.conf import settings
from django.db import transaction
from django.db.models import Case, Count, F, FloatField, OuterRef, Q, Subquery, Sum, Value, When
from django.db.models.functions import Cast
from django.utils import timezone

from generation.access import audit
from generation.engine.proportions import Share
from generation.errors import ReleaseRefused
from generation.models import Image, Job, PromptVariant, Quality, Release

log = structlog.get_logger(__name__)

MIN_JUDGED = 4  # judged pictures of a text that a share needs; an evaluation makes so many
RECENT_DAYS = 30  # maximum age of the jobs whose pictures are counted
WEAK = 0.5  # share of right pictures below which a prompt is shown as weak if its floor is 0
MAIN_UNKNOWN, OTHER_UNKNOWN = -1.0, 2.0  # sort keys of `best_first` for unknown shares
BATCH = 2000  # rows per statement


# --- rules ----------------------------------------------------------------------------------------
def concluded(right: int | None, total: int | None) -> float | None:
    """Return the share of right pictures; None if too few were judged."""
    return None if right is None or total is None or total < MIN_JUDGED else right / total


def floor(variant: PromptVariant, release: Release) -> float:
    """Return the share of right pictures that the release needs to serve the variant, from 0 to 1."""
    given = (variant.quality_floor, release.quality_floor, settings.QUALITY_FLOOR)
    return next(value for value in given if value is not None)


def is_weak(share: float | None, floor: float) -> bool:
    """Return whether a better release should serve the prompt instead. share: result of `concluded`."""
    return share is not None and share < floor


def serves_better(share: float | None, weak: float | None) -> bool:
    """Return whether a release with this share is better than a weak one. An unknown share counts as better."""
    return share is None or weak is None or share > weak


def best_first(share: float | None, *, is_main: bool) -> tuple[float, bool]:
    """Return the sort key of a student in service for a prompt that it covers; the first one serves it.

    share: result of `concluded`. A specialist precedes the active student (is_main) only if it is known to be better.
    """
    unknown = MAIN_UNKNOWN if is_main else OTHER_UNKNOWN
    return (unknown if share is None else 1.0 - share), not is_main


def limit(floor: float | None = None) -> float:
    """Return the share of right pictures below which a prompt with this floor is shown as weak. None: the setting's."""
    return (settings.QUALITY_FLOOR if floor is None else floor) or WEAK


# --- for many prompt variants -----------------------------------------------------------------------
_TOTAL = F("evaluated") + F("judged")
_RIGHT = F("evaluated_right") + F("judged_right")


def share_of(release: Release | OuterRef | None, text: OuterRef | None = None) -> Any:
    """Return the expression for a prompt variant's `concluded` share by the release; NULL without a release.

    text: reference to the variant's normalised text, if the query is not on variants.
    """
    if release is None:
        return Cast(Value(None), FloatField())
    text = text or OuterRef("normalized_text")
    found = Quality.objects.filter(release=release, normalized_text=text).annotate(
        share=Case(
            When(
                Q(evaluated__gte=MIN_JUDGED - F("judged")),
                then=Cast(_RIGHT, FloatField()) / Cast(_TOTAL, FloatField()),
            ),
            output_field=FloatField(),
        )
    )
    return Subquery(found.values("share")[:1], output_field=FloatField())


@dataclass(frozen=True)
class Judged:
    """share: of right pictures; flagged: number of wrong pictures in recent jobs."""

    share: Share
    flagged: int = 0


def of(release: Release, texts: list[str]) -> dict[str, Judged]:
    """Return the counts by normalised text; texts without judged pictures are missing."""
    rows = Quality.objects.filter(release=release, normalized_text__in=texts)
    found = rows.annotate(total=_TOTAL, right=_RIGHT).filter(total__gt=0)
    return {
        row.normalized_text: Judged(Share(row.right, row.total), row.judged - row.judged_right)
        for row in found
    }


# --- writing --------------------------------------------------------------------------------------
def edit(
    release: Release, field: Literal["max_tries", "quality_floor"], value: float | None
) -> Release:
    """Set a value of the release's quality control. None: the setting MAX_TRIES or QUALITY_FLOOR.

    Raises ReleaseRefused for the floor of a teacher.
    """
    if field == "quality_floor" and value is not None and release.kind == Release.Kind.TEACHER:
        raise ReleaseRefused(
            f"{release.name} is a teacher, and serves where a student is below its floor. Set the floor of students."
        )
    with transaction.atomic():
        row = Release.objects.select_for_update().get(pk=release.pk)
        before = getattr(row, field)
        if before != value:
            setattr(row, field, value)
            row.save(update_fields=[field])
            audit.record("release_edited", row.name, **{field: [before, value]})
    return row


@dataclass(frozen=True)
class Counts:
    right: int
    total: int


def record_evaluation(release: Release, counts: Mapping[str, Counts]) -> None:
    """Store the counts of an evaluation by normalised text. They replace earlier counts of these texts."""
    rows = [
        Quality(
            release=release,
            normalized_text=text,
            evaluated=counts[text].total,
            evaluated_right=counts[text].right,
        )
        for text in sorted(counts)
    ]
    _write(rows, ["evaluated", "evaluated_right"])
    log.info("quality_evaluated", release=release.name, texts=len(rows))


def count_jobs() -> int:
    """Recount the judged pictures of recent jobs. Return the number of changed rows. Idempotent.

    Each try counts: two pictures of an image accepted at the third try are wrong. Jobs answered with existing pictures
    do not count, nor do pictures of an earlier text.
    """
    since = timezone.now() - timedelta(days=RECENT_DAYS)
    judged = Image.objects.filter(
        is_accepted__isnull=False,
        created_at__gte=since,
        job__cache=Job.Cache.MISS,
        job__embedding__revision=F("job__variant__revision"),
    ).order_by()
    counted = {
        (row["job__release"], row["job__variant__normalized_text"]): (row["right"], row["total"])
        for row in judged.values("job__release", "job__variant__normalized_text").annotate(
            total=Sum("tries"), right=Count("pk", filter=Q(is_accepted=True))
        )
    }
    stored = {
        (row.release_id, row.normalized_text): (row.judged_right, row.judged)
        for row in Quality.objects.filter(judged__gt=0)
    }
    wanted = dict.fromkeys(stored, (0, 0)) | counted
    rows = [
        Quality(release_id=release, normalized_text=text, judged=total, judged_right=right)
        for (release, text), (right, total) in sorted(wanted.items())
        if stored.get((release, text)) != (right, total)
    ]
    _write(rows, ["judged", "judged_right"])
    if rows:
        log.info("quality_counted", texts=len(rows))
    return len(rows)


def _write(rows: list[Quality], fields: list[str]) -> None:
    """Insert or update rows in the order of their keys, which prevents deadlocks."""
    Quality.objects.bulk_create(
        rows,
        batch_size=BATCH,
        update_conflicts=True,
        unique_fields=["release", "normalized_text"],
        update_fields=fields,
    )
