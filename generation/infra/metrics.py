"""Metrics of all processes and hosts: cumulative values in one Redis hash, and gauges read from PostgreSQL.

Recording never raises, and takes milliseconds at most while Redis is unreachable; values may be lost then.
"""

import collections
import json
import threading
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import django.db
import structlog
from django.conf import settings
from django.db.models import Count, F, Min, Q
from django.db.models.functions import Now
from django.utils import timezone
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.utils import floatToGoString

from generation.infra.redis_client import attempt, decoded
from generation.models import (
    Delivery,
    Embedding,
    Job,
    PromptVariant,
    Release,
    StockedImage,
    Worker,
)

log = structlog.get_logger(__name__)

HASH = "retort:metrics"  # field: [name, part, [[label, value], …]] as JSON → number
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


@dataclass(frozen=True)
class Counter:
    help: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Histogram:
    help: str
    buckets: tuple[float, ...]
    labels: tuple[str, ...] = ()


# All names. A test finds names in the code that are not here.
COUNTERS = {
    "retort_jobs_total": Counter("Jobs that ended.", ("outcome",)),
    "retort_attempts_total": Counter("Attempts that ended.", ("outcome",)),
    "retort_images_total": Counter("Images delivered, new and cached."),
    "retort_damaged_files_total": Counter("Image files found without their content, and removed."),
    "retort_judged_total": Counter("New images that were judged.", ("outcome",)),
    "retort_tries_total": Counter("Pictures that were made for new images."),
    "retort_device_seconds_total": Counter("Seconds of devices spent on jobs that succeeded."),
    "retort_cache_total": Counter("Succeeded jobs by how they were answered.", ("result",)),
    "retort_stock_total": Counter("Images of the stock.", ("outcome",)),
    "retort_sweeps_total": Counter("Sweeps: the light worker is alive."),
    "retort_webhooks_total": Counter("Tries to deliver a webhook.", ("outcome",)),
    "retort_encoded_total": Counter("Prompt variants encoded.", ("outcome",)),
    "retort_matches_total": Counter("Texts that no prompt variant has.", ("outcome",)),
    "retort_web_stuck_total": Counter("Web processes that ended because all threads were stuck."),
}
HISTOGRAMS = {
    "retort_job_seconds": Histogram("From a job's creation to its success.", SECONDS),
    "retort_queue_seconds": Histogram("From a job's creation to its claim by a worker.", SECONDS),
    "retort_webhook_seconds": Histogram("From an event to its delivery as a webhook.", SECONDS),
    "retort_batch_size": Histogram("Images in a batch.", (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)),
}


def _field(name: str, part: str, labels: dict[str, str]) -> str:
    return json.dumps([name, part, sorted((key, str(value)) for key, value in labels.items())])


def counted(name: str, by: float = 1, **labels: str) -> dict[str, float]:
    """Return the fields and amounts that count an event of a counter of COUNTERS."""
    return {_field(name, "value", labels): by}


def observed(name: str, value: float, **labels: str) -> dict[str, float]:
    """Return the fields and amounts that put a value, in seconds or images, into a histogram of HISTOGRAMS."""
    buckets = HISTOGRAMS[name].buckets
    place = bisect_left(buckets, value)
    upper = floatToGoString(buckets[place]) if place < len(buckets) else "+Inf"
    return {_field(name, upper, labels): 1, _field(name, "sum", labels): value}


def add(amounts: Mapping[str, float]) -> None:
    """Add amounts to the metrics of all processes: at once, or with the next `flush` after `keep_back`."""
    if _is_kept_back:
        with _guard:
            _kept.update(amounts)
    elif amounts:
        _write(amounts)


def keep_back() -> None:
    """Buffer amounts from now on. The process calls `flush` often, outside the time that clients wait for."""
    global _is_kept_back
    _is_kept_back = True


def flush() -> None:
    """Send the buffered amounts."""
    with _guard:
        amounts = dict(_kept)
        _kept.clear()
    if amounts:
        _write(amounts)


_is_kept_back = False
_kept: collections.Counter[str] = collections.Counter()
_guard = threading.Lock()


def _write(amounts: Mapping[str, float]) -> None:
    """Send amounts in one round trip."""

    def write(redis) -> None:
        with redis.pipeline(transaction=False) as pipe:
            for field, amount in amounts.items():
                pipe.hincrbyfloat(HASH, field, amount)
            pipe.execute()

    attempt(write, None)


def increment(name: str, by: float = 1, **labels: str) -> None:
    """Add to a counter of COUNTERS."""
    add(counted(name, by, **labels))


def observe(name: str, value: float, **labels: str) -> None:
    """Put a value, in seconds or images, into a histogram of HISTOGRAMS."""
    add(observed(name, value, **labels))


# --- for /metrics ---------------------------------------------------------------------------------
Labels = tuple[tuple[str, str], ...]


def collect() -> Iterator[Metric]:
    """Yield all metrics as Prometheus families, without those of a server that is unreachable."""
    yield from _recorded()
    try:
        known = [*_jobs(), *_stock(), *_workers(), *_catalogue(), *_webhooks()]
    except django.db.Error as error:
        log.warning("metrics_without_database", error=str(error).strip())
        known = []
    yield GaugeMetricFamily("retort_database_up", "Whether PostgreSQL answers.", value=bool(known))
    yield from known


def of_web(load: Mapping[str, float]) -> Iterator[Metric]:
    """Yield the gauges of the web process that is scraped."""
    busy = "Threads of this web process that are at work."
    yield GaugeMetricFamily("retort_web_busy_threads", busy, value=load["busy"])
    stuck = (
        "For how long all threads of this web process have been at work, and none ended a request."
    )
    yield GaugeMetricFamily("retort_web_stuck_seconds", stuck, value=load["stuck_seconds"])


def _recorded() -> Iterator[Metric]:
    stored: dict[Any, Any] | None = attempt(lambda redis: redis.hgetall(HASH), None)
    reachable = stored is not None
    yield GaugeMetricFamily("retort_redis_up", "Whether Redis answers.", value=reachable)
    if stored is None:
        return
    parts: dict[str, dict[Labels, dict[str, float]]] = {}
    for field, number in stored.items():
        if not isinstance(written := decoded(field), list) or len(written) != 3:
            continue  # of nobody we know
        name, part, labels = written
        by_labels = parts.setdefault(name, {})
        by_labels.setdefault(tuple((k, v) for k, v in labels), {})[part] = float(number)
    for name, counter in COUNTERS.items():
        family = CounterMetricFamily(name, counter.help, labels=counter.labels)
        values = parts.get(name, {} if counter.labels else {(): {}})
        for labels, seen in values.items():
            family.add_metric(_values(labels, counter.labels), seen.get("value", 0.0))
        yield family
    for name, histogram in HISTOGRAMS.items():
        shape = HistogramMetricFamily(name, histogram.help, labels=histogram.labels)
        for labels, seen in parts.get(name, {} if histogram.labels else {(): {}}).items():
            shape.add_metric(
                _values(labels, histogram.labels),
                list(_cumulative(histogram.buckets, seen)),
                seen.get("sum", 0.0),
            )
        yield shape


def _values(labels: Labels, names: Iterable[str]) -> list[str]:
    known = dict(labels)
    return [known.get(name, "") for name in names]


def _cumulative(buckets: Iterable[float], seen: dict[str, float]) -> Iterator[tuple[str, float]]:
    total = 0.0
    for upper in [*map(floatToGoString, buckets), "+Inf"]:
        total += seen.get(upper, 0.0)
        yield upper, total


def _jobs() -> Iterator[Metric]:
    depth = GaugeMetricFamily("retort_queue_jobs", "Jobs queued.", labels=("release",))
    running = GaugeMetricFamily("retort_running_jobs", "Jobs running.", labels=("release",))
    age = GaugeMetricFamily(
        "retort_queue_oldest_seconds", "Age of the oldest queued job.", labels=("release",)
    )
    # Uses the partial indexes of queued and running rows, however many jobs have ended.
    rows = (
        Job.objects.filter(status__in=(Job.Status.QUEUED, Job.Status.RUNNING))
        .values("release_id", "status")
        .annotate(jobs=Count("id"), oldest=Min("created_at"))
        .order_by()
    )
    found = {(row["release_id"], row["status"]): row for row in rows}
    served = Q(status=Release.Status.ACTIVE) | Q(pk__in={pk for pk, _ in found})
    now = timezone.now()
    for pk, name in Release.objects.filter(served).values_list("pk", "name"):
        queued = found.get((pk, Job.Status.QUEUED))
        depth.add_metric([name], queued["jobs"] if queued else 0)
        waited = (now - queued["oldest"]).total_seconds() if queued else 0.0
        age.add_metric([name], max(0.0, waited))
        busy = found.get((pk, Job.Status.RUNNING))
        running.add_metric([name], busy["jobs"] if busy else 0)
    yield from (depth, age, running)


def _stock() -> Iterator[Metric]:
    stocked = GaugeMetricFamily(
        "retort_stocked_images", "Images made ahead, by release.", labels=("release",)
    )
    counts = StockedImage.objects.values_list("release__name").annotate(Count("id")).order_by()
    for name, count in counts:
        stocked.add_metric([name], count)
    yield stocked


def _workers() -> Iterator[Metric]:
    alive = GaugeMetricFamily(
        "retort_workers", "Workers with a fresh heartbeat.", labels=("queue",)
    )
    faulty = GaugeMetricFamily(
        "retort_faulty_workers",
        "Workers with a fresh heartbeat and a fault.",
        labels=("queue", "fault"),
    )
    counts = dict.fromkeys(("generation", "encode", "webhooks"), 0)
    faults: collections.Counter[tuple[str, str]] = collections.Counter()
    silence = F("heartbeat_at") - Now()  # by PostgreSQL's clock, like the heartbeat's age in health
    for row in Worker.objects.annotate(silence=silence).values("queue", "silence", "fault"):
        fresh = -row["silence"].total_seconds() <= settings.WORKER_STALE_SECONDS
        counts[row["queue"]] = counts.get(row["queue"], 0) + fresh
        if fresh and row["fault"]:
            faults[row["queue"], row["fault"]] += 1
    for queue, count in counts.items():
        alive.add_metric([queue], count)
    for labels, count in faults.items():
        faulty.add_metric(labels, count)
    yield from (alive, faulty)


def _catalogue() -> Iterator[Metric]:
    variants = GaugeMetricFamily("retort_variants", "Prompt variants.", labels=("status",))
    rows = PromptVariant.objects.values_list("status").annotate(Count("id")).order_by()
    counts = dict.fromkeys(PromptVariant.Status.values, 0) | dict(rows)
    for status, count in counts.items():
        variants.add_metric([status], count)
    yield variants
    encoded = GaugeMetricFamily(
        "retort_variant_embeddings",
        "Active prompt variants that an active release covers, by the state of their embedding for it.",
        labels=("release", "state"),
    )
    for release in Release.objects.filter(status=Release.Status.ACTIVE):
        needed = PromptVariant.objects.filter(status=PromptVariant.Status.ACTIVE)
        total = counts[PromptVariant.Status.ACTIVE]
        if not release.covers_all:
            needed = needed.filter(slug__in=release.coverage.values("slug"))
            total = needed.count()
        states = Embedding.objects.filter(
            variant__in=needed,
            revision=F("variant__revision"),
            encoder_fingerprint=release.encoder_fingerprint,
        ).aggregate(
            encoded=Count("id", filter=Q(error="")), failed=Count("id", filter=~Q(error=""))
        )
        missing = total - states["encoded"] - states["failed"]
        for state, count in {**states, "missing": max(0, missing)}.items():
            encoded.add_metric([release.name, state], count)
    yield encoded


def _webhooks() -> Iterator[Metric]:
    waiting = GaugeMetricFamily(
        "retort_webhook_deliveries", "Webhooks that wait or were given up.", labels=("status",)
    )
    unsent = (Delivery.Status.PENDING, Delivery.Status.DEAD)  # the index delivery_open has these
    rows = Delivery.objects.filter(status__in=unsent).values_list("status")
    counts = dict.fromkeys(unsent, 0) | dict(rows.annotate(Count("id")).order_by())
    for status, count in counts.items():
        waiting.add_metric([status], count)
    yield waiting
