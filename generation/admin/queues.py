"""Admin of queues of jobs: state, pause, resume."""

from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.template.defaultfilters import pluralize
from unfold.admin import ModelAdmin
from unfold.decorators import action, display

from generation.admin import pictures
from generation.admin.actions import ObjectActionsMixin, ReadOnlyMixin
from generation.jobs import pausing
from generation.models import Queue


@admin.register(Queue)
class QueueAdmin(ReadOnlyMixin, ObjectActionsMixin, ModelAdmin):
    list_display = ("name", "state", "waiting", "running", "workers", "paused_by", "paused_at")
    actions = ("pause", "resume")
    object_actions = ("pause", "resume")

    @display(description="state")
    def state(self, queue: Queue) -> str:
        found = pausing.state(queue.name)
        return pictures.badge(found.status, found.reason)

    @display(description="jobs queued")
    def waiting(self, queue: Queue) -> int:
        return pausing.state(queue.name).queued

    @display(description="jobs running")
    def running(self, queue: Queue) -> int:
        return pausing.state(queue.name).running

    @display(description="workers")
    def workers(self, queue: Queue) -> int:
        return pausing.state(queue.name).workers

    def action_applies(self, name: str, obj: Any) -> bool:
        return (obj.paused_at is None) == (name == "pause")

    def confirmation(self, name: str, obj: Any) -> str:
        if name == "pause":
            return "Its workers start no more jobs until it is resumed. New jobs are accepted and wait."
        return ""

    @action(description="Pause", icon="pause", permissions=["change"])
    def pause(self, request: HttpRequest, queryset: QuerySet[Queue]) -> None:
        for queue in queryset:
            state = pausing.pause(queue.name, by=request.user.get_username())
            self.log_change(request, queue, "Paused in the admin.")
            messages.success(
                request,
                f"{state.name} is {state.status}: {state.running} job{pluralize(state.running, ' runs,s run')}.",
            )

    @action(description="Resume", icon="play_arrow", permissions=["change"])
    def resume(self, request: HttpRequest, queryset: QuerySet[Queue]) -> None:
        for queue in queryset:
            state = pausing.resume(queue.name)
            self.log_change(request, queue, "Resumed in the admin.")
            messages.success(request, f"{state.name} is {state.status}.")
