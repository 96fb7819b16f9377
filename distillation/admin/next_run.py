"""The open run or the next scheduled decision, and the link to start a run now, for pages about prompts."""

from functools import cached_property

from django.http import HttpRequest
from django.urls import reverse
from django.utils.formats import date_format
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django_celery_beat.models import PeriodicTask

from distillation.admin.schedule import due_at
from distillation.models import Run
from distillation.reports import durations
from distillation.runs import policy as redistillation
from generation.errors import GenerationError
from generation.models import PromptVariant

SCHEDULED = "distillation.consider"  # task that may begin a run


class Runs:
    """The open run and the time of the next scheduled decision, each read once for a page."""

    @cached_property
    def open(self) -> Run | None:
        return Run.objects.filter(status__in=Run.OPEN).order_by("-created_at").first()

    @cached_property
    def next_decision(self) -> str:
        """Return as text when the schedule decides next whether to start a run; "" if no decision is due."""
        task = PeriodicTask.objects.filter(task=SCHEDULED, enabled=True).first()
        due = None if task is None else due_at(task)
        return "" if due is None else date_format(due, "DATETIME_FORMAT")

    def of(self, variant: PromptVariant) -> str:
        """Return a sentence on the run after which a student may cover the variant."""
        run = self.open
        # The catalogue is read when the first slice begins.
        if run is not None and (run.started_at is None or variant.updated_at < run.started_at):
            return f"In the run {run.name} ({run.status}, {run.percent:.0f} %)."
        if self.next_decision:
            return f"The next run may begin {self.next_decision}."
        return "No run is scheduled."


def offer(request: HttpRequest, runs: Runs) -> SafeString | str:
    """Return a link to the form of a run, with the expected duration and the next scheduled decision.

    While a run is open, return a link to it. Return "" if the user may not start a run, or none can be started.
    """
    if not request.user.has_perm("distillation.add_run"):
        return ""
    if (run := runs.open) is not None:
        page = reverse("admin:distillation_run_change", args=[run.pk])
        said = 'The run <a href="{}" class="underline">{}</a> is {}, at {} %.'
        return format_html(said, page, run.name, run.status, f"{run.percent:.0f}")
    try:
        start = redistillation.prepare(is_warm=None)
    except GenerationError:  # such as no active teacher
        return ""
    time = durations.in_advance(start.recipe, is_warm=start.begins_with is not None)
    return format_html(
        '<a href="{}" class="underline">Distil now</a>{}{}.',
        reverse("admin:distillation_run_add"),
        f" ({time})" if time else "",
        f", or wait for the decision of {runs.next_decision}" if runs.next_decision else "",
    )
