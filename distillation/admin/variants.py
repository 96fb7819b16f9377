"""Admin of the prompt catalogue with facts of distillation: when a student will cover a variant, examples, detector.

Replaces the page of `generation`, which has no access to runs.
"""

from functools import cached_property
from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.formats import date_format
from django.utils.html import format_html, format_html_join
from django_celery_beat.models import PeriodicTask
from unfold.decorators import action

from distillation.admin.schedule import due_at
from distillation.detectors import registry as detectors
from distillation.models import Example, Run
from generation.admin.variant_actions import rows
from generation.admin.variants import PromptVariantAdmin
from generation.catalogue import editing
from generation.models import PromptVariant

SCHEDULED = "distillation.consider"  # task that may begin a run
MAX_EXAMPLES = 24
admin.site.unregister(PromptVariant)


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


@admin.register(PromptVariant)
class VariantWithRunsAdmin(PromptVariantAdmin):
    actions = (*PromptVariantAdmin.actions, "put_into_run")

    def known_bits(self) -> frozenset[str]:
        detector = detectors.Detector.objects.filter(status=detectors.Status.ACTIVE).first()
        return frozenset(detector.bits if detector else ())

    def waiting(self, request: HttpRequest) -> Runs:
        if not hasattr(request, "retort_runs"):
            request.retort_runs = Runs()  # type: ignore[attr-defined]
        return request.retort_runs  # type: ignore[attr-defined]

    def waits(self, request: HttpRequest, variant: Any) -> str:
        return self.waiting(request).of(variant)

    def next_run(self, request: HttpRequest) -> str:
        runs = self.waiting(request)
        if runs.open is not None:
            return f"The run {runs.open.name} is {runs.open.status}, at {runs.open.percent:.0f} %."
        if runs.next_decision:
            return f"The schedule decides on a run {runs.next_decision}."
        return (
            "No run is scheduled: enable the periodic task consider-redistillation, or start one."
        )

    def blocks(self, request: HttpRequest, obj: Any) -> list[dict[str, Any]]:
        if not request.user.has_perm("distillation.view_example"):
            return []
        found = Example.objects.filter(source__variants=obj, refusal="").distinct()
        shown = format_html_join(
            "",
            '<a href="{}" class="rt-thumbnail"><img src="{}" alt="Example {}" loading="lazy"></a>',
            (
                (
                    reverse("admin:distillation_example_change", args=[example.pk]),
                    reverse("admin:distillation_example_picture", args=[example.pk, "thumbnail"]),
                    example.pk,
                )
                for example in found[:MAX_EXAMPLES]
            ),
        )
        place = reverse("admin:distillation_imagesource_changelist")
        none = format_html(
            '<p class="rt-quiet">None. Real images come from <a href="{}">image sources</a>.</p>',
            place,
        )
        content = format_html('<div class="rt-thumbnails">{}</div>', shown) if shown else none
        return [{"title": "Examples", "content": content}]

    def has_run_permission(self, request: HttpRequest) -> bool:
        return bool(request.user.has_perm("distillation.add_run"))

    @action(description="Put into a run", icon="cycle", permissions=["change", "run"])
    def put_into_run(self, request: HttpRequest, queryset: QuerySet) -> HttpResponse:
        """Activate the prompt variants and open the form of a run, which covers all active variants."""
        change = editing.set_status(rows(queryset), PromptVariant.Status.ACTIVE)
        said = f"{editing.named(change.count)} became active. " if change.count else ""
        messages.info(request, f"{said}The run is for all active prompt variants.")
        return redirect("admin:distillation_run_add")
