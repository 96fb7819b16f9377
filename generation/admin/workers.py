"""Admin of workers: state and device."""

from datetime import timedelta

from django.conf import settings
from django.contrib import admin
from django.utils import timezone
from unfold.admin import ModelAdmin
from unfold.contrib.filters.admin import AllValuesCheckboxFilter
from unfold.decorators import display

from generation.admin import pictures
from generation.admin.actions import ReadOnlyMixin
from generation.models import Worker


def is_fresh(worker: Worker) -> bool:
    age = timezone.now() - worker.heartbeat_at
    return age < timedelta(seconds=settings.WORKER_STALE_SECONDS)


@admin.register(Worker)
class WorkerAdmin(ReadOnlyMixin, ModelAdmin):
    list_display = ("named", "state", "device", "release", "heartbeat", "started")
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

    @display(description="last heartbeat", ordering="heartbeat_at")
    def heartbeat(self, worker: Worker) -> str:
        seconds = (timezone.now() - worker.heartbeat_at).total_seconds()
        return f"{max(0, seconds):.0f} s ago"

    started = pictures.when_column("started_at", "started")
