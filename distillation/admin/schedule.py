"""Admin of periodic tasks: django-celery-beat's pages in unfold's style, with permissions and a log."""

from datetime import datetime, timedelta
from functools import cache
from typing import Any, cast

from django.contrib import admin
from django.contrib.admin.models import CHANGE, LogEntry
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django_celery_beat.admin import ClockedScheduleAdmin as BeatClockedScheduleAdmin
from django_celery_beat.admin import CrontabScheduleAdmin as BeatCrontabScheduleAdmin
from django_celery_beat.admin import PeriodicTaskAdmin as BeatPeriodicTaskAdmin
from django_celery_beat.admin import PeriodicTaskForm, TaskSelectWidget
from django_celery_beat.models import (
    ClockedSchedule,
    CrontabSchedule,
    IntervalSchedule,
    PeriodicTask,
    SolarSchedule,
)
from unfold.admin import ModelAdmin
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from generation.access import audit
from generation.admin import pictures

for model in (PeriodicTask, IntervalSchedule, CrontabSchedule, SolarSchedule, ClockedSchedule):
    admin.site.unregister(model)


def due_at(task: PeriodicTask) -> datetime:
    """Return the time at which beat sends the task next; now if that time has passed."""
    now = timezone.now()
    due = max(now + task.schedule.remaining_estimate(task.last_run_at or now), now)
    return (due + timedelta(seconds=0.5)).replace(microsecond=0)  # a moment has passed in between


@cache
def _does() -> dict[str, str]:
    """Return the first line of each task's docstring by the task's name."""
    PeriodicTaskAdmin.celery_app.loader.import_default_modules()  # the web process imports no tasks otherwise
    tasks = PeriodicTaskAdmin.celery_app.tasks.items()
    return {name: (task.__doc__ or name).strip().partition("\n")[0] for name, task in tasks}


class TaskSelect(UnfoldAdminSelectWidget, TaskSelectWidget):
    pass


class TaskForm(PeriodicTaskForm):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["task"].widget = UnfoldAdminTextInputWidget()
        self.fields["regtask"].widget = TaskSelect()


@admin.register(PeriodicTask)
class PeriodicTaskAdmin(BeatPeriodicTaskAdmin, ModelAdmin):
    """Adds a permission and a log entry to each of the library's actions, which have neither."""

    form = TaskForm
    list_display = ("named", "enabled", "rhythm", "next_run", "last_run")
    list_filter = ("enabled", "task")
    date_hierarchy = None
    actions = ("enable_tasks", "disable_tasks", "run_tasks")

    @display(description="task", ordering="name")
    def named(self, task: PeriodicTask) -> Any:
        """Return the task's name with the first line of its docstring."""
        return pictures.wording(task.name, _does().get(task.task, task.task))

    @display(description="when")
    def rhythm(self, task: PeriodicTask) -> str:
        return task.crontab.human_readable if task.crontab else str(task.scheduler)

    @display(description="next run")
    def next_run(self, task: PeriodicTask) -> Any:
        return pictures.when(due_at(task)) if task.enabled else "–"

    last_run = pictures.when_column("last_run_at", "last run")

    @action(description="Enable selected tasks", permissions=["change"])
    def enable_tasks(self, request: HttpRequest, queryset: QuerySet) -> None:
        chosen = list(queryset)
        super().enable_tasks(request, queryset)
        self._log(request, chosen, "Enabled in the admin.")

    @action(description="Disable selected tasks", permissions=["change"])
    def disable_tasks(self, request: HttpRequest, queryset: QuerySet) -> None:
        chosen = list(queryset)
        super().disable_tasks(request, queryset)
        self._log(request, chosen, "Disabled in the admin.")

    @action(description="Run selected tasks now", permissions=["change"])
    def run_tasks(self, request: HttpRequest, queryset: QuerySet) -> None:
        chosen = list(queryset)
        super().run_tasks(request, queryset)
        self._log(request, chosen, "Run in the admin.")

    def _log(self, request: HttpRequest, tasks: list[PeriodicTask], message: str) -> None:
        LogEntry.objects.log_actions(cast(int, request.user.pk), tasks, CHANGE, message)
        for task in tasks:
            audit.record("periodic_task_changed", task.name, what=message)

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        audit.record("periodic_task_changed", obj.name, fields=form.changed_data)


@admin.register(IntervalSchedule)
class IntervalScheduleAdmin(ModelAdmin):
    pass


@admin.register(CrontabSchedule)
class CrontabScheduleAdmin(BeatCrontabScheduleAdmin, ModelAdmin):
    pass


@admin.register(ClockedSchedule)
class ClockedScheduleAdmin(BeatClockedScheduleAdmin, ModelAdmin):
    pass
