"""Admin of periodic tasks: django-celery-beat's pages in unfold's style, with permissions and a log."""

from datetime import datetime, timedelta
from functools import cache
from typing import Any, cast

from celery.exceptions import QueueNotFound
from celery.schedules import BaseSchedule
from django import forms
from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.db.models import QuerySet
from django.http import HttpRequest
from django.template.defaultfilters import pluralize
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
from kombu.exceptions import KombuError
from kombu.utils import json
from redis import RedisError
from unfold.admin import ModelAdmin
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from generation.access import audit
from generation.admin import pictures
from generation.admin.audit import AuditedDeletionsMixin
from generation.admin.initial import ReadableInitialMixin

for model in (PeriodicTask, IntervalSchedule, CrontabSchedule, SolarSchedule, ClockedSchedule):
    admin.site.unregister(model)

DELETED = "Deleted in the admin."
NEVER = "The schedule has no next date. Change it."
MAX_INTERVAL = timedelta(days=3653)  # ten years


def due_at(task: PeriodicTask) -> datetime | None:
    """Return the time at which beat sends the task next; now if that time has passed; None if there is no such time.

    None is for rows made before the forms refused them, or outside the admin.
    """
    try:
        return _next(task.schedule, task.last_run_at)
    except Exception:  # such as OverflowError of an interval, ValueError of a crontab
        return None


def _next(schedule: BaseSchedule, last: datetime | None = None) -> datetime:
    """Return the next time of the schedule. Raises what the library raises if there is none."""
    now = timezone.now()
    due = max(now + schedule.remaining_estimate(last or now), now)
    return (due + timedelta(seconds=0.5)).replace(microsecond=0)  # a moment has passed in between


def _send(task: PeriodicTask) -> str:
    """Send the task to a worker. Return why the row cannot be sent, or "". Raises the errors of Redis."""
    app = PeriodicTaskAdmin.celery_app
    app.loader.import_default_modules()
    if task.task not in app.tasks:
        return f"{task.name} was not sent: no task has the name {task.task}."
    try:
        app.tasks[task.task].apply_async(
            args=json.loads(task.args or "[]"),
            kwargs=json.loads(task.kwargs or "{}"),
            queue=task.queue or None,
            headers={"periodic_task_name": task.name},
        )
    except QueueNotFound:
        return f"{task.name} was not sent: no queue has the name {task.queue}."
    except (TypeError, ValueError) as error:
        return f"{task.name} was not sent: its arguments do not fit ({error})."
    return ""


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

    def clean_queue(self) -> str:
        queue, known = self.cleaned_data["queue"], sorted(PeriodicTaskAdmin.celery_app.amqp.queues)
        if queue and queue not in known:
            raise forms.ValidationError(f"Give one of {', '.join(known)}, or nothing.")
        return queue

    def clean_args(self) -> str:
        return self._json("args", list, "a list, such as []")

    def clean_kwargs(self) -> str:
        return self._json("kwargs", dict, "an object, such as {}")

    def clean_headers(self) -> str:
        return self._json("headers", dict, "an object, such as {}")

    def _json(self, field: str, kind: type, wanted: str) -> str:
        """Return the text of a field, or that of an empty value. Raises ValidationError unless it is of this kind."""
        text = self.cleaned_data[field] or json.dumps(kind())
        try:
            value = json.loads(text)
        except Exception as error:  # also of the types that beat reads from JSON, such as dates
            raise forms.ValidationError(f"Give JSON: {wanted}.") from error
        if not isinstance(value, kind):
            raise forms.ValidationError(f"Give JSON: {wanted}.")
        return text


class IntervalForm(forms.ModelForm):
    def clean(self) -> dict[str, Any]:
        data = super().clean() or self.cleaned_data
        if {"every", "period"} <= data.keys() and _is_too_long(data["every"], data["period"]):
            self.add_error("every", "An interval has at most ten years.")
        return data


def _is_too_long(every: int, period: str) -> bool:
    try:
        return timedelta(**{period: every}) > MAX_INTERVAL
    except OverflowError:
        return True


class CrontabForm(forms.ModelForm):
    def _post_clean(self) -> None:
        """Refuse a schedule without a next date, once its fields are known to be valid."""
        super()._post_clean()  # type: ignore[misc]
        if self.errors:
            return
        try:
            _next(self.instance.schedule)
        except Exception:
            self.add_error(None, "No date in the future fits this schedule.")


@admin.register(PeriodicTask)
class PeriodicTaskAdmin(
    AuditedDeletionsMixin, ReadableInitialMixin, BeatPeriodicTaskAdmin, ModelAdmin
):
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
        if not task.enabled:
            return "–"
        due = due_at(task)
        return pictures.badge("never", NEVER) if due is None else pictures.when(due)

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
        """Send the tasks to their workers, and report those that could not be sent."""
        sent: list[PeriodicTask] = []
        try:
            for task in queryset:
                if refusal := _send(task):
                    messages.error(request, refusal)
                else:
                    sent.append(task)
        except (KombuError, RedisError, OSError):
            messages.error(request, "Redis does not answer: not all tasks were sent. Try again.")
        self._log(request, sent, "Run in the admin.")
        if sent:
            messages.success(request, f"{len(sent)} task{pluralize(len(sent))} sent to workers.")

    def _log(self, request: HttpRequest, tasks: list[PeriodicTask], message: str) -> None:
        LogEntry.objects.log_actions(cast(int, request.user.pk), tasks, CHANGE, message)
        for task in tasks:
            audit.record("periodic_task_changed", task.name, what=message)

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        audit.record("periodic_task_changed", obj.name, fields=form.changed_data)

    def record_deletion(self, obj: Any) -> None:
        audit.record("periodic_task_changed", obj.name, what=DELETED)


class AuditedScheduleMixin(AuditedDeletionsMixin):
    """Mixin of ModelAdmin of schedules. Records a change for each task of the schedule; a deletion deletes them too."""

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)  # type: ignore[misc]
        if form.changed_data:
            _record_tasks(obj, f"Schedule changed in the admin: {obj}.")

    def record_deletion(self, obj: Any) -> None:
        _record_tasks(obj, DELETED)


def _record_tasks(schedule: Any, what: str) -> None:
    for task in schedule.periodictask_set.order_by("pk"):
        audit.record("periodic_task_changed", task.name, what=what)


@admin.register(IntervalSchedule)
class IntervalScheduleAdmin(AuditedScheduleMixin, ModelAdmin):
    form = IntervalForm


@admin.register(CrontabSchedule)
class CrontabScheduleAdmin(AuditedScheduleMixin, BeatCrontabScheduleAdmin, ModelAdmin):
    form = CrontabForm


@admin.register(ClockedSchedule)
class ClockedScheduleAdmin(
    AuditedScheduleMixin, ReadableInitialMixin, BeatClockedScheduleAdmin, ModelAdmin
):
    pass
