"""Quotas and limits: daily quotas and queued jobs per person and per key, queued jobs in total.

Usage is a row per UTC day for each person or key with a quota; of the others it is read from the jobs. A conditional
update in the transaction that inserts the job counts it, so concurrent requests never exceed the quota, and refused
ones use nothing. No limits, no queries.
"""

import math
import random
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from threading import Condition
from typing import Any

from cachetools import TTLCache, cached
from django.conf import settings
from django.db.models import F, Q, QuerySet, Sum
from django.db.models.functions import Now, TruncDate
from django.template.defaultfilters import pluralize

from generation.access import audit
from generation.errors import QueueFull, QuotaExceeded, RateLimited
from generation.infra import database
from generation.models import APIKey, Job, OwnerLimits, OwnerUsage, Usage

MAX_RETRY_SECONDS = 120  # OpenAI's clients ignore longer waits
COUNT_SECONDS = 0.5  # how long counts are cached
RATE_SECONDS = 60.0  # window over which the throughput of the queue is measured
RETURN_SHARE = 0.1  # refused clients are to retry when this share of a full queue has ended
JITTER = 0.25  # so that they do not retry at the same time


LIMITS = ("requests_per_minute", "images_per_day", "device_seconds_per_day", "max_queued_jobs")
# A person's limits apply to all their keys and the page together; each key may have narrower ones.
Limited = OwnerLimits | APIKey


def limits_of(owner: Any) -> OwnerLimits | None:
    """Return the limits of a person, or None. Authentication by key has loaded them with the key."""
    try:
        return owner.limits
    except OwnerLimits.DoesNotExist:
        return None


def record(limits: OwnerLimits, *, is_removed: bool = False) -> None:
    """Write a change of a person's limits to the audit log."""
    facts = {} if is_removed else {field: getattr(limits, field) for field in LIMITS}
    audit.record("limits_removed" if is_removed else "limits_edited", limits.owner, **facts)


def _limited(owner: Any, key: APIKey | None) -> list[Limited]:
    """Return the rows whose limits apply to a job, in lock order."""
    return [one for one in (limits_of(owner), key) if one is not None]


def refusal(job: Job) -> QueueFull | RateLimited | None:
    """Return the error if this job exceeds a queue limit, or None. Call it in the transaction of the insert."""
    found: QueueFull | RateLimited | None = _refusal_of_queue()
    for one in _limited(job.owner, job.api_key):
        if found is None and one.max_queued_jobs is not None:
            found = _refusal_of(one, one.max_queued_jobs)
    return found


def use(job: Job) -> None:
    """Charge this job to the quotas. Call it in the transaction that inserts the job. Raises QuotaExceeded."""
    for one in _limited(job.owner, job.api_key):
        if has_quota(one):
            _use(one, job.n)


def is_limited(owner: Any, key: APIKey | None) -> bool:
    """Return whether limits of the person or of the key apply."""
    return any(one.max_queued_jobs is not None or has_quota(one) for one in _limited(owner, key))


def has_quota(one: Limited) -> bool:
    return one.images_per_day is not None or one.device_seconds_per_day is not None


def spend(*, owners: Mapping[int, float], keys: Mapping[int, float]) -> None:
    """Add device seconds of finished jobs, by pk of owner and of key. Call it at the end of their transaction."""
    for kind, seconds in ((OwnerUsage, owners), (Usage, keys)):
        for pk in sorted(seconds):  # a fixed order prevents deadlocks
            _add(kind, pk, device_seconds=seconds[pk])


# --- quotas ---------------------------------------------------------------------------------------
Kind = type[Usage] | type[OwnerUsage]


# The current UTC day by PostgreSQL's clock, for which usage is counted: hosts would count it on different days.
TODAY = TruncDate(Now(), tzinfo=UTC)


def today() -> date:
    """Return the current UTC day by PostgreSQL's clock."""
    return database.now().astimezone(UTC).date()


def _queued(one: Limited) -> QuerySet[Job]:
    own = {"api_key": one} if isinstance(one, APIKey) else {"owner_id": one.pk}
    return Job.objects.filter(status=Job.Status.QUEUED, **own).order_by()


def _usage_of(one: Limited) -> Kind:
    return Usage if isinstance(one, APIKey) else OwnerUsage


def _row(kind: Kind, pk: int) -> dict[str, Any]:
    """Return the lookup of today's row of a key or a person."""
    return {_subject(kind): pk, "day": TODAY}


def _subject(kind: Kind) -> str:
    return "api_key_id" if kind is Usage else "owner_id"


def _use(one: Limited, images: int) -> None:
    left = Q()
    if one.images_per_day is not None:
        left &= Q(images__lte=one.images_per_day - images)
    if one.device_seconds_per_day is not None:
        left &= Q(device_seconds__lt=one.device_seconds_per_day)
    if not _add(_usage_of(one), one.pk, images=images, left=left):
        raise _exceeded(one, images)


def _add(
    kind: Kind, pk: int, *, images: int = 0, device_seconds: float = 0.0, left: Q | None = None
) -> bool:
    """Add to today's row if it meets the condition `left`. Return whether it did."""
    row = _row(kind, pk)
    rows = kind.objects.filter(left or Q(), **row)
    more = {"images": F("images") + images, "device_seconds": F("device_seconds") + device_seconds}
    if rows.update(**more):
        return True
    if kind.objects.filter(**row).exists():
        return False
    rows_of: Any = kind.objects
    rows_of.bulk_create([kind(**row)], ignore_conflicts=True)
    return bool(rows.update(**more))


def _exceeded(one: Limited, images: int) -> QuotaExceeded:
    kind = _usage_of(one)
    whose = "this key" if isinstance(one, APIKey) else "this account"
    now = database.now()
    tomorrow = now.astimezone(UTC).date() + timedelta(days=1)
    again = datetime.combine(tomorrow, datetime.min.time(), UTC)
    used = kind.objects.filter(**_row(kind, one.pk)).first() or kind()
    if one.images_per_day is not None and used.images + images > one.images_per_day:
        what = (
            f"The quota of {whose} is {one.images_per_day} image{pluralize(one.images_per_day)} per day: "
            f"{used.images} {pluralize(used.images, 'was,were')} requested today, "
            f"and this job needs {images}."
        )
    else:
        what = (
            f"The quota of {whose} is {one.device_seconds_per_day} device "
            f"second{pluralize(one.device_seconds_per_day)} per day: "
            f"{used.device_seconds:.1f} were used today."
        )
    seconds = math.ceil((again - now).total_seconds())
    minutes = math.ceil(seconds / 60)
    return QuotaExceeded(
        f"{what} The quota is renewed at {again:%Y-%m-%dT%H:%MZ}, in {minutes // 60} h {minutes % 60} min.",
        retry_after=min(MAX_RETRY_SECONDS, seconds),
    )


# --- limits and usage -----------------------------------------------------------------------------
def standing(one: Limited) -> dict[str, Any]:
    """Return the limits of a person or a key by name, and their usage."""
    (used,) = usage(one, days=1)
    return {limit: getattr(one, limit) for limit in LIMITS} | {
        "requests_per_minute": one.requests_per_minute or None,  # 0: no limit
        "images_today": used.images,
        "device_seconds_today": round(used.device_seconds, 3),
        "queued_jobs": _queued(one).count(),
    }


def usage(one: Limited, *, days: int) -> list[Usage] | list[OwnerUsage]:
    """Return the usage of the last UTC days, today first: as counted for the quota, or else from the jobs."""
    kind: Any = _usage_of(one)
    shown = [today() - timedelta(days=ago) for ago in range(days)]
    if has_quota(one):
        rows = kind.objects.filter(**{_subject(kind): one.pk}, day__gte=shown[-1])
        found = {row.day: row for row in rows}
    else:
        found = {row.day: row for row in _from_jobs(one, kind, since=shown[-1])}
    return [found.get(day) or kind(day=day) for day in shown]


def _from_jobs(one: Limited, kind: Any, *, since: date) -> list[Any]:
    # The owner's jobs have an index by time, a key's have none.
    own = {"owner": one.owner_id} | ({"api_key": one.pk} if isinstance(one, APIKey) else {})
    jobs = Job.objects.filter(created_at__gte=datetime.combine(since, time.min, UTC), **own)
    by_day = jobs.order_by().values(day=TruncDate("created_at", tzinfo=UTC))
    counted = by_day.annotate(made=Sum("n"), seconds=Sum("device_seconds"))
    return [
        kind(day=row["day"], images=row["made"], device_seconds=row["seconds"]) for row in counted
    ]


def standing_of_person(key: APIKey) -> dict[str, Any]:
    """Return `standing` of the key's owner, with the default limit of requests if `throttling` applies it."""
    own = limits_of(key.owner) or OwnerLimits(owner=key.owner)
    found = standing(own)
    if own.requests_per_minute is None and key.requests_per_minute is None:
        found["requests_per_minute"] = settings.REQUESTS_PER_MINUTE or None
    return found


# --- queues ---------------------------------------------------------------------------------------
def _refusal_of(one: Limited, most: int) -> RateLimited | None:
    # The lock serialises concurrent requests, so that together they do not exceed the limit.
    type(one).objects.select_for_update(no_key=True).only("pk").filter(pk=one.pk).first()
    jobs = _queued(one)
    if jobs[:most].count() < most:
        return None
    whose = "This key" if isinstance(one, APIKey) else "This account"
    return RateLimited(
        f"{whose} has {most} queued job{pluralize(most)}, its limit. Send the request again when some have finished.",
        retry_after=seconds_until_gone(most),
    )


def _refusal_of_queue() -> QueueFull | None:
    most = settings.MAX_QUEUED_JOBS
    if not most or queued() < most:
        return None
    return QueueFull(
        f"{most} job{pluralize(most, ' is,s are')} queued, the limit. Send the request again later.",
        retry_after=seconds_until_gone(most),
    )


def seconds_until_gone(count: int) -> int:
    """Estimate the seconds until RETURN_SHARE of `count` jobs has ended at the current throughput, bounded."""
    per_second = ended() / RATE_SECONDS
    if not per_second:
        return MAX_RETRY_SECONDS
    seconds = max(1.0, count * RETURN_SHARE) / per_second * random.uniform(1, 1 + JITTER)
    return min(MAX_RETRY_SECONDS, max(1, math.ceil(seconds)))


# Cached for concurrent requests: one thread counts while the others wait for its result.
@cached(TTLCache(maxsize=1, ttl=COUNT_SECONDS), condition=Condition())
def queued() -> int:
    """Return the number of queued jobs, up to MAX_QUEUED_JOBS, which bounds the rows read from the index."""
    rows = Job.objects.filter(status=Job.Status.QUEUED).order_by()
    return rows[: settings.MAX_QUEUED_JOBS].count()


@cached(TTLCache(maxsize=1, ttl=COUNT_SECONDS), condition=Condition())
def ended() -> int:
    """Return how many computed jobs ended within the last RATE_SECONDS."""
    since = Now() - timedelta(seconds=RATE_SECONDS)
    # The conditions on purged_at and finished_at match the partial index job_kept.
    rows = Job.objects.filter(finished_at__gte=since, finished_at__isnull=False, purged_at=None)
    return rows.exclude(cache=Job.Cache.HIT).order_by().count()
