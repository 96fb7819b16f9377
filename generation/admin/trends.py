"""Daily trends of the last week, and figures of the last hour, for the first page of the admin."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from django.core.cache import cache
from django.db.models import Aggregate, Count, F, FloatField, Q, QuerySet
from django.db.models.functions import Extract, TruncDate
from django.utils import timezone

from generation.models import Image, Job

DAYS = 7
KEPT_SECONDS = 60  # cache time: the queries read all rows of a week, and of an hour
KEY, KEY_OF_HOUR = "admin-week", "admin-hour"
WIDTH, HEIGHT, GAP = 28, 80, 8  # of a bar, in SVG units


SUCCEEDED = Q(status=Job.Status.SUCCEEDED)
FAILED = Q(status=Job.Status.FAILED)
SECONDS = Extract(F("finished_at") - F("created_at"), "epoch")  # from submission to the end


class Percentile(Aggregate):
    """Percentile of a group, interpolated. fraction: 0.5 is the median."""

    function = "PERCENTILE_CONT"
    template = "%(function)s(%(fraction)s) WITHIN GROUP (ORDER BY %(expressions)s)"
    output_field = FloatField()


@dataclass(frozen=True)
class Bar:
    """A bar of the chart. bad_height: of its red part, on top. text: tooltip."""

    x: int
    y: float
    height: float
    bad_height: float
    day: str
    text: str


@dataclass(frozen=True)
class Trend:
    """A bar chart. latest: text of today's value. bars: one per day, the last is today's."""

    title: str
    latest: str
    bars: Sequence[Bar]

    width = DAYS * (WIDTH + GAP) - GAP
    height = HEIGHT
    bar_width = WIDTH

    @property
    def description(self) -> str:
        return ", ".join(f"{bar.day}: {bar.text}" for bar in self.bars)


def hour() -> list[tuple[str, str]]:
    """Return the names and values of the figures of the last hour, cached for KEPT_SECONDS."""
    return cache.get_or_set(KEY_OF_HOUR, _hour, KEPT_SECONDS) or []


def ended_in_last_hour() -> QuerySet[Job]:
    """Return the jobs, without those whose images were removed, which the index `job_kept` leaves out."""
    since = timezone.now() - timedelta(hours=1)
    return Job.objects.filter(finished_at__gte=since, purged_at=None)


def _hour() -> list[tuple[str, str]]:
    found = ended_in_last_hour().aggregate(
        ended=Count("pk", filter=SUCCEEDED | FAILED),
        failed=Count("pk", filter=FAILED),
        p50=Percentile(SECONDS, fraction=0.5, filter=SUCCEEDED),
        p99=Percentile(SECONDS, fraction=0.99, filter=SUCCEEDED),
    )
    ended = f"{found['ended'] / 60:,.1f} a minute ({found['ended']:,}, {found['failed']:,} failed)"
    times = ("–" if found[name] is None else f"{found[name]:,.2f} s" for name in ("p50", "p99"))
    names = ("Jobs", "Half of the jobs took at most", "99 % of the jobs took at most")
    return list(zip(names, (ended, *times), strict=True))


def week() -> list[Trend]:
    """Return the trends of jobs and pictures, cached for KEPT_SECONDS."""
    return cache.get_or_set(KEY, _week, KEPT_SECONDS) or []


def _week() -> list[Trend]:
    today = timezone.now().date()
    days = [today - timedelta(days=ago) for ago in reversed(range(DAYS))]
    jobs, judged = _jobs(days[0]), _judged(days[0])
    return [
        _drawn(
            "Jobs",
            days,
            {day: row["succeeded"] + row["failed"] for day, row in jobs.items()},
            {day: f"{row['succeeded']:,}, {row['failed']:,} failed" for day, row in jobs.items()},
            bad={day: row["failed"] for day, row in jobs.items()},
        ),
        _drawn(
            "Half of the jobs took at most",
            days,
            {day: row["seconds"] or 0.0 for day, row in jobs.items()},
            {day: f"{row['seconds'] or 0:.2f} s" for day, row in jobs.items()},
        ),
        _drawn(
            "Pictures found right by the detector",
            days,
            {day: row["right"] / row["total"] for day, row in judged.items()},
            {
                day: f"{row['right'] / row['total']:.0%} of {row['total']:,}"
                for day, row in judged.items()
            },
            most=1.0,
        ),
    ]


def _jobs(since: date) -> dict[date, Any]:
    rows = (
        Job.objects.filter(created_at__gte=_midnight(since))
        .annotate(day=TruncDate("created_at"))
        .values("day")
        .annotate(
            succeeded=Count("pk", filter=SUCCEEDED),
            failed=Count("pk", filter=FAILED),
            seconds=Percentile(SECONDS, fraction=0.5, filter=SUCCEEDED),
        )
        .order_by()
    )
    return {row["day"]: row for row in rows}


def _judged(since: date) -> dict[date, Any]:
    rows = (
        Image.objects.filter(created_at__gte=_midnight(since), is_accepted__isnull=False)
        .annotate(day=TruncDate("created_at"))
        .values("day")
        .annotate(total=Count("pk"), right=Count("pk", filter=Q(is_accepted=True)))
        .order_by()
    )
    return {row["day"]: row for row in rows}


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def _drawn(
    title: str,
    days: Sequence[date],
    values: Mapping[date, float],
    texts: Mapping[date, str],
    *,
    bad: Mapping[date, float] | None = None,
    most: float = 0.0,
) -> Trend:
    """Return the chart. most: value of a bar of full height; 0 = the largest value."""
    full = most or max(values.values(), default=0) or 1
    bars = []
    for number, day in enumerate(days):
        height = HEIGHT * values.get(day, 0) / full
        height = max(height, 1.0) if values.get(day) else 0.0
        red = HEIGHT * (bad or {}).get(day, 0) / full
        text = texts.get(day, "none")
        bars.append(
            Bar(number * (WIDTH + GAP), HEIGHT - height, height, red, f"{day:%a %d %b}", text)
        )
    return Trend(title, bars[-1].text, bars)
