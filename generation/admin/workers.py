"""Admin of workers: state and device."""

from datetime import timedelta

from django.conf import settings
from django.contrib import admin
from django.utils import timezone
from django.utils.html import format_html_join
from unfold.admin import ModelAdmin
from unfold.contrib.filters.admin import AllValuesCheckboxFilter
from unfold.decorators import display

from generation.admin import pictures
from generation.admin.actions import ReadOnlyMixin
from generation.jobs import throughput
from generation.models import Worker


def is_fresh(worker: Worker) -> bool:
    age = timezone.now() - worker.heartbeat_at
    return age < timedelta(seconds=settings.WORKER_STALE_SECONDS)


@admin.register(Worker)
class WorkerAdmin(ReadOnlyMixin, ModelAdmin):
    list_display = ("named", "state", "device", "release", "batches", "heartbeat", "started")
    list_filter = (("queue", AllValuesCheckboxFilter),)
    list_filter_submit = True
    list_select_related = ("release",)
    search_fields = ("name", "hostname")

    @display(description="worker", ordering="name")
    def named(self, worker: Worker) -> str:
        return pictures.wording(worker.name, f"queue {worker.queue}, process {worker.pid}")

    @display(description="state", ordering="heartbeat_at")
    def state(self, worker: Worker) -> str:
        if not is_fresh(worker):
            return pictures.badge("not responding")
        if worker.fault:
            return pictures.badge("faulty", f"{worker.fault}: {worker.fault_detail}")
        return pictures.badge("alive")

    @display(description="time of batches")
    def batches(self, worker: Worker) -> str:
        """Return measured times per batch size, in milliseconds, of the release used last, and its batch size."""
        lines = []
        for key in sorted(worker.batch_seconds):
            if not key.startswith(f"{worker.release_id}:"):
                continue
            curve = throughput.parse(worker.batch_seconds, key)
            times = ", ".join(f"{n}: {1000 * curve[n].p50:.0f} ms" for n in sorted(curve))
            size = throughput.best(curve, settings.BATCH_SIZE)
            lines.append((times, f"{key.partition(':')[2]}, batches of {size}"))
        return format_html_join("", "{}", ((pictures.wording(*line),) for line in lines)) or "–"

    @display(description="last heartbeat", ordering="heartbeat_at")
    def heartbeat(self, worker: Worker) -> str:
        seconds = (timezone.now() - worker.heartbeat_at).total_seconds()
        return f"{max(0, seconds):.0f} s ago"

    started = pictures.when_column("started_at", "started")
