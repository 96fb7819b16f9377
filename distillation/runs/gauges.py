"""Gauges of runs for /metrics."""

from collections.abc import Iterator

from django.db.models import Count, Max
from prometheus_client.core import GaugeMetricFamily, Metric

from distillation.models import Run
from distillation.runs import approval


def collect() -> Iterator[Metric]:
    """Yield the gauges of runs and of the candidates that wait for a person. Raises django.db.Error."""
    runs = GaugeMetricFamily("retort_runs", "Runs of distillations.", labels=("status",))
    rows = Run.objects.values("status").annotate(count=Count("id"), most=Max("percent")).order_by()
    found = {row["status"]: row for row in rows}
    for status in Run.Status.values:
        runs.add_metric([status], found[status]["count"] if status in found else 0)
    yield runs
    percent = max((row["most"] for status, row in found.items() if status in Run.OPEN), default=0)
    about = "Progress of the open run, 0 without one."
    yield GaugeMetricFamily("retort_run_percent", about, value=percent)
    yield GaugeMetricFamily(
        "retort_waiting_candidates",
        "Releases of runs that wait for a person's decision.",
        value=approval.waiting().count(),
    )
