"""Gauges: read from PostgreSQL, Redis, the disk and the web process at each scrape."""

import collections
import shutil
from collections.abc import Iterator, Mapping

import django.db
import structlog
from django.conf import settings
from django.db import connection
from django.db.models import Count, Exists, F, Min, OuterRef, Q
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.module_loading import import_string
from prometheus_client.core import GaugeMetricFamily, Metric

from generation.infra import beat_lock, queues
from generation.infra.redis_client import attempt
from generation.models import (
    Coverage,
    Delivery,
    Embedding,
    Job,
    PromptVariant,
    Release,
    StockedImage,
    Worker,
)

log = structlog.get_logger(__name__)


def collect() -> Iterator[Metric]:
    """Yield all gauges, except those of unreachable servers."""
    yield from _installation()
    try:
        known = [*_database(), *_jobs(), *_stock(), *_workers(), *_catalogue(), *_webhooks()]
        for path in settings.GAUGES:
            known += import_string(path)()
    except django.db.Error as error:
        log.warning("metrics_without_database", error=str(error).strip())
        known = []
    yield GaugeMetricFamily("retort_database_up", "Whether PostgreSQL answers.", value=bool(known))
    yield from known


def of_web(load: Mapping[str, float]) -> Iterator[Metric]:
    """Yield the gauges of the scraped web process."""
    busy = "Busy threads of this web process."
    yield GaugeMetricFamily("retort_web_busy_threads", busy, value=load["busy"])
    stuck = (
        "For how long all threads of this web process have been busy without completing a request."
    )
    yield GaugeMetricFamily("retort_web_stuck_seconds", stuck, value=load["stuck_seconds"])


def _installation() -> Iterator[Metric]:
    version = GaugeMetricFamily("retort_info", "Always 1.", labels=("version",))
    version.add_metric([settings.VERSION], 1)
    yield version
    free = GaugeMetricFamily("retort_disk_free_bytes", "Free space under DATA_DIR.")
    size = GaugeMetricFamily("retort_disk_size_bytes", "Size of the disk under DATA_DIR.")
    try:
        disk = shutil.disk_usage(settings.DATA_DIR)
    except OSError:  # not mounted: no value is better than a wrong one
        disk = None
    if disk is not None:
        free.add_metric([], disk.free)
        size.add_metric([], disk.total)
    yield from (free, size)
    beats = GaugeMetricFamily("retort_beat_up", "Whether beat runs.")
    is_held: bool | None = attempt(lambda _: beat_lock.is_held(), None)
    if is_held is not None:
        beats.add_metric([], is_held)
    yield beats


def _database() -> Iterator[Metric]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_database_size(current_database())")
        (size,) = cursor.fetchone()
    yield GaugeMetricFamily("retort_database_bytes", "Size of the database.", value=size)


def _jobs() -> Iterator[Metric]:
    depth = GaugeMetricFamily("retort_queue_jobs", "Jobs queued.", labels=("release",))
    running = GaugeMetricFamily("retort_running_jobs", "Jobs running.", labels=("release",))
    age = GaugeMetricFamily(
        "retort_queue_oldest_seconds", "Age of the oldest queued job.", labels=("release",)
    )
    # Uses the partial indexes of queued and running rows, which do not grow with ended jobs.
    rows = (
        Job.objects.filter(status__in=(Job.Status.QUEUED, Job.Status.RUNNING))
        .values("release_id", "status")
        .annotate(jobs=Count("id"), oldest=Min("created_at"))
        .order_by()
    )
    found = {(row["release_id"], row["status"]): row for row in rows}
    served = Q(status__in=Release.SERVED) | Q(pk__in={pk for pk, _ in found})
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
        "retort_stocked_images", "Images made in advance, by release.", labels=("release",)
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
    counts = dict.fromkeys(queues.REQUIRED, 0)
    faults: collections.Counter[tuple[str, str]] = collections.Counter()
    silence = F("heartbeat_at") - Now()  # by PostgreSQL's clock, as in the health check
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
        "Active prompt variants that an active release or a specialist covers, by the state of their embedding for it.",
        labels=("release", "state"),
    )
    covered = GaugeMetricFamily(
        "retort_covered_variants",
        "Active prompt variants that an active release or a specialist covers, by slug.",
        labels=("release", "kind"),
    )
    served = list(Release.objects.filter(status__in=Release.SERVED))
    for release in served:
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
        covered.add_metric([release.name, release.kind], total)
    yield from (encoded, covered)
    said = "Active prompt variants whose current text no student in service covers; 0 without a student in service."
    yield GaugeMetricFamily("retort_uncovered_variants", said, value=_uncovered(served))


def _uncovered(served: list[Release]) -> int:
    students = [release for release in served if release.kind == Release.Kind.STUDENT]
    if not students or any(student.covers_all for student in students):
        return 0
    present = Q(normalized_text="") | Q(normalized_text=OuterRef("normalized_text"))
    covering = Coverage.objects.filter(present, release__in=students, slug=OuterRef("slug"))
    active = PromptVariant.objects.filter(status=PromptVariant.Status.ACTIVE)
    return active.filter(~Exists(covering)).count()


def _webhooks() -> Iterator[Metric]:
    waiting = GaugeMetricFamily(
        "retort_webhook_deliveries", "Pending and dead webhook deliveries.", labels=("status",)
    )
    unsent = (Delivery.Status.PENDING, Delivery.Status.DEAD)  # as in the index delivery_open
    rows = Delivery.objects.filter(status__in=unsent).values_list("status")
    counts = dict.fromkeys(unsent, 0) | dict(rows.annotate(Count("id")).order_by())
    for status, count in counts.items():
        waiting.add_metric([status], count)
    yield waiting
