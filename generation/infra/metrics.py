"""Counters and histograms of all processes and hosts: cumulative values in one Redis hash.

Recording never raises, and takes milliseconds at most while Redis is unreachable; values may be lost then.
"""

import collections
import json
import threading
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.utils import floatToGoString

from generation.infra.redis_client import attempt, decoded

HASH = "retort:metrics"  # field: [name, part, [[label, value], …]] as JSON → number
HTTP_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


@dataclass(frozen=True)
class Counter:
    """starts: label values that are exported as 0 before the first event, so that alerts see the first increase."""

    help: str
    labels: tuple[str, ...] = ()
    starts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Histogram:
    help: str
    buckets: tuple[float, ...]
    labels: tuple[str, ...] = ()


# All names; a test checks that the code uses no others.
COUNTERS = {
    "retort_jobs_total": Counter("Jobs that ended.", ("outcome",), ("succeeded", "failed")),
    "retort_attempts_total": Counter("Attempts that ended.", ("outcome",), ("lost",)),
    "retort_images_total": Counter("Images delivered, new and cached."),
    "retort_damaged_files_total": Counter("Image files found without their content, and removed."),
    "retort_judged_total": Counter("New images that were judged.", ("outcome",)),
    "retort_tries_total": Counter("Pictures made for new images."),
    "retort_device_seconds_total": Counter("Device seconds of succeeded jobs."),
    "retort_cache_total": Counter("Succeeded jobs by how they were answered.", ("result",)),
    "retort_stock_total": Counter("Images of the stock.", ("outcome",)),
    "retort_sweeps_total": Counter("Sweeps of the light worker."),
    "retort_webhooks_total": Counter("Attempts to deliver a webhook.", ("outcome",), ("dead",)),
    "retort_encoded_total": Counter("Prompt variants encoded.", ("outcome",)),
    "retort_matches_total": Counter("Texts compared with the catalogue.", ("outcome",)),
    "retort_web_stuck_total": Counter("Web processes that ended because all threads were stuck."),
    "retort_http_requests_total": Counter("Requests.", ("route", "method", "status")),
}
HISTOGRAMS = {
    "retort_job_seconds": Histogram("From a job's creation to its success.", SECONDS),
    "retort_queue_seconds": Histogram("From a job's creation to its claim by a worker.", SECONDS),
    "retort_webhook_seconds": Histogram("From an event to its delivery as a webhook.", SECONDS),
    "retort_http_seconds": Histogram(
        "From a request's start on a thread to its response, without waits for jobs.",
        HTTP_SECONDS,
        ("route",),
    ),
    "retort_batch_size": Histogram("Images in a batch.", (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)),
}


def _field(name: str, part: str, labels: dict[str, str]) -> str:
    return json.dumps([name, part, sorted((key, str(value)) for key, value in labels.items())])


def counted(name: str, by: float = 1, **labels: str) -> dict[str, float]:
    """Return the hash fields and amounts that increase a counter of COUNTERS."""
    return {_field(name, "value", labels): by}


def observed(name: str, value: float, **labels: str) -> dict[str, float]:
    """Return the hash fields and amounts that add a value, in seconds or images, to a histogram of HISTOGRAMS."""
    buckets = HISTOGRAMS[name].buckets
    place = bisect_left(buckets, value)
    upper = floatToGoString(buckets[place]) if place < len(buckets) else "+Inf"
    return {_field(name, upper, labels): 1, _field(name, "sum", labels): value}


def add(amounts: Mapping[str, float]) -> None:
    """Add amounts to the metrics of all processes: at once, or with the next `flush` after `start_buffering`."""
    if _is_kept_back:
        with _guard:
            _kept.update(amounts)
    elif amounts:
        _write(amounts)


def start_buffering() -> None:
    """Buffer amounts from now on. The process must call `flush` often, outside of requests."""
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
    """Add a value, in seconds or images, to a histogram of HISTOGRAMS."""
    add(observed(name, value, **labels))


# --- for /metrics ---------------------------------------------------------------------------------
Labels = tuple[tuple[str, str], ...]


def recorded() -> Iterator[Metric]:
    """Yield counters and histograms as Prometheus families; none while Redis is unreachable."""
    flush()  # the amounts that this process has buffered
    stored: dict[Any, Any] | None = attempt(lambda redis: redis.hgetall(HASH), None)
    reachable = stored is not None
    yield GaugeMetricFamily("retort_redis_up", "Whether Redis answers.", value=reachable)
    if stored is None:
        return
    parts: dict[str, dict[Labels, dict[str, float]]] = {}
    for field, number in stored.items():
        if not isinstance(written := decoded(field), list) or len(written) != 3:
            continue  # from another version or program
        name, part, labels = written
        by_labels = parts.setdefault(name, {})
        by_labels.setdefault(tuple((k, v) for k, v in labels), {})[part] = float(number)
    for name, counter in COUNTERS.items():
        family = CounterMetricFamily(name, counter.help, labels=counter.labels)
        none: dict[Labels, dict[str, float]] = {
            ((label, value),): {} for label in counter.labels for value in counter.starts
        }
        values = none | parts.get(name, {} if counter.labels else {(): {}})
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
