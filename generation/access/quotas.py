"""Quotas and limits: daily quotas and queued jobs per key, queued jobs in total.

The usage of a key with a quota is a row per UTC day. It is counted by a guarded update in the transaction that inserts
the job, so concurrent requests never exceed the quota, and a refused one uses nothing. A key without limits costs no
query.
"""

import math
import random
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from threading import Condition

from cachetools import TTLCache, cached
from django.conf import settings
from django.db.models import F, Q
from django.db.models.functions import Now
from django.utils import timezone

from generation.errors import QueueFull, QuotaExceeded, RateLimited
from generation.models import APIKey, Job, Usage

MAX_RETRY_SECONDS = 120  # OpenAI's clients ignore longer waits
COUNT_SECONDS = 0.5
RATE_SECONDS = 60.0  # window in which the throughput of the queue is measured
RETURN_SHARE = 0.1  # share of a full queue that has drained when refused clients return
JITTER = 0.25  # so that they do not return at the same time


def refusal(job: Job) -> QueueFull | RateLimited | None:
    """Return why this job must not be inserted now, or None. Called in the transaction of the insert."""
    key = job.api_key
    found: QueueFull | RateLimited | None = _refusal_of_queue()
    if found is None and key is not None and key.max_queued_jobs is not None:
        found = _refusal_of(key, key.max_queued_jobs)
    return found


def use(job: Job) -> None:
    """Count this job in the transaction that inserts it. Raises QuotaExceeded."""
    if job.api_key is not None and has_quota(job.api_key):
        _use(job.api_key, job.n)


def is_limited(key: APIKey | None) -> bool:
    """Return whether jobs of the key are counted."""
    return key is not None and (key.max_queued_jobs is not None or has_quota(key))


def has_quota(key: APIKey) -> bool:
    return key.images_per_day is not None or key.device_seconds_per_day is not None


def spend(device_seconds: Mapping[int, float]) -> None:
    """Add device seconds of finished jobs, by pk of a key with a quota. Call at the end of their transaction."""
    for pk in sorted(device_seconds):  # in a fixed order, against deadlocks
        _add(pk, device_seconds=device_seconds[pk])


# --- quotas ---------------------------------------------------------------------------------------
def today() -> date:
    """Return the day that usage is counted for."""
    return timezone.now().astimezone(UTC).date()


def _use(key: APIKey, images: int) -> None:
    left = Q()
    if key.images_per_day is not None:
        left &= Q(images__lte=key.images_per_day - images)
    if key.device_seconds_per_day is not None:
        left &= Q(device_seconds__lt=key.device_seconds_per_day)
    if not _add(key.pk, images=images, left=left):
        raise _exceeded(key, images)


def _add(pk: int, *, images: int = 0, device_seconds: float = 0.0, left: Q | None = None) -> bool:
    """Add to the day's row if it meets `left`. Return whether it did."""
    day = today()
    rows = Usage.objects.filter(left or Q(), api_key_id=pk, day=day)
    more = {"images": F("images") + images, "device_seconds": F("device_seconds") + device_seconds}
    if rows.update(**more):
        return True
    if Usage.objects.filter(api_key_id=pk, day=day).exists():
        return False
    Usage.objects.bulk_create([Usage(api_key_id=pk, day=day)], ignore_conflicts=True)
    return bool(rows.update(**more))


def _exceeded(key: APIKey, images: int) -> QuotaExceeded:
    day = today()
    again = datetime.combine(day + timedelta(days=1), datetime.min.time(), UTC)
    used = Usage.objects.filter(api_key=key, day=day).first() or Usage()
    if key.images_per_day is not None and used.images + images > key.images_per_day:
        what = (
            f"The quota of this key is {key.images_per_day} images per day: {used.images} were requested today, "
            f"and this job needs {images}."
        )
    else:
        what = (
            f"The quota of this key is {key.device_seconds_per_day} device seconds per day: "
            f"{used.device_seconds:.1f} were used today."
        )
    seconds = math.ceil((again - timezone.now()).total_seconds())
    minutes = math.ceil(seconds / 60)
    return QuotaExceeded(
        f"{what} The quota is renewed at {again:%Y-%m-%dT%H:%MZ}, in {minutes // 60} h {minutes % 60} min.",
        retry_after=min(MAX_RETRY_SECONDS, seconds),
    )


# --- queues ---------------------------------------------------------------------------------------
def _refusal_of(key: APIKey, most: int) -> RateLimited | None:
    # The lock makes concurrent requests of this key wait, so that together they keep the limit.
    APIKey.objects.select_for_update(no_key=True).only("pk").get(pk=key.pk)
    own = Job.objects.filter(api_key=key, status=Job.Status.QUEUED).order_by()
    if own[:most].count() < most:
        return None
    return RateLimited(
        f"This key has {most} queued jobs, its limit. Send the request again when some have finished.",
        retry_after=seconds_until_gone(most),
    )


def _refusal_of_queue() -> QueueFull | None:
    most = settings.MAX_QUEUED_JOBS
    if not most or queued() < most:
        return None
    return QueueFull(
        f"{most} jobs are queued, the limit. Send the request again later.",
        retry_after=seconds_until_gone(most),
    )


def seconds_until_gone(count: int) -> int:
    """Return the seconds until RETURN_SHARE of so many jobs has ended at the current throughput, bounded."""
    per_second = ended() / RATE_SECONDS
    if not per_second:
        return MAX_RETRY_SECONDS
    seconds = max(1.0, count * RETURN_SHARE) / per_second * random.uniform(1, 1 + JITTER)
    return min(MAX_RETRY_SECONDS, max(1, math.ceil(seconds)))


# Counts for many requests at once: while one thread counts, the others wait for its result.
@cached(TTLCache(maxsize=1, ttl=COUNT_SECONDS), condition=Condition())
def queued() -> int:
    """Return how many jobs are queued, at most MAX_QUEUED_JOBS: no more rows of the partial index are read."""
    rows = Job.objects.filter(status=Job.Status.QUEUED).order_by()
    return rows[: settings.MAX_QUEUED_JOBS].count()


@cached(TTLCache(maxsize=1, ttl=COUNT_SECONDS), condition=Condition())
def ended() -> int:
    """Return how many jobs left the queue within RATE_SECONDS."""
    since = Now() - timedelta(seconds=RATE_SECONDS)
    # The conditions on purged_at and finished_at are those of the index job_kept.
    rows = Job.objects.filter(finished_at__gte=since, finished_at__isnull=False, purged_at=None)
    return rows.exclude(cache=Job.Cache.HIT).order_by().count()
