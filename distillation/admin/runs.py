"""Admin of runs: start, progress, gate, results; pause, resume, cancel."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import Count, QuerySet
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect
from django.urls import path, reverse
from django.utils.html import format_html
from rest_framework.exceptions import APIException
from unfold.admin import ModelAdmin
from unfold.contrib.filters.admin import ChoicesDropdownFilter
from unfold.decorators import action, display
from unfold.widgets import (
    UnfoldAdminFileFieldWidget,
    UnfoldAdminSelectWidget,
    UnfoldBooleanSwitchWidget,
)

from distillation.admin import evaluations, files
from distillation.models import Decision, Run
from distillation.pipeline.summaries import SUMMARIES
from distillation.runs import curves, folders, reports
from distillation.runs import lifecycle as runs
from distillation.runs import policy as redistillation
from generation.admin import pictures
from generation.admin.actions import ObjectActionsMixin, ReadOnlyMixin
from generation.admin.jobs import seconds_between
from generation.api.parsers import StrictJSON
from generation.errors import GenerationError

FILES = (
    reports.COMPARED,
    reports.SHEETS[0],
    reports.REPORT,
)  # of the evaluation, shown on its page
MOST_BYTES = 100_000  # of an uploaded recipe


class RunForm(forms.ModelForm):
    """Form to start a run."""

    changes = forms.FileField(
        label="Changed recipe",
        required=False,
        widget=UnfoldAdminFileFieldWidget,
        help_text='A JSON file instead of a name: {"recipe": NAME, FIELD: VALUE, …}.',
    )
    trains_on = forms.BooleanField(
        label="Continue from the active student",
        initial=True,
        required=False,
        widget=UnfoldBooleanSwitchWidget,
        help_text="Takes minutes instead of hours. Otherwise a new student is derived from the teacher.",
    )

    class Meta:
        model = Run
        fields = ("policy",)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        choices = [(policy, policy.label) for policy in redistillation.policies()]
        offered = [(name, f"{name}: {about}") for name, about in _recipes()]
        self.fields["recipe"] = forms.ChoiceField(choices=offered, widget=UnfoldAdminSelectWidget)
        self.fields["policy"] = forms.ChoiceField(choices=choices, widget=UnfoldAdminSelectWidget)

    def clean_recipe(self) -> dict[str, Any]:
        try:
            return redistillation.described(self.cleaned_data["recipe"])
        except GenerationError as error:
            raise forms.ValidationError(error.detail) from error

    def clean_changes(self) -> dict[str, Any] | None:
        file = self.cleaned_data["changes"]
        if file is None:
            return None
        if file.size > MOST_BYTES:
            raise forms.ValidationError(f"A recipe has at most {MOST_BYTES} bytes.")
        try:
            return redistillation.check_description(StrictJSON().parse(file), file.name)
        except (APIException, GenerationError) as error:
            raise forms.ValidationError(str(error.detail)) from error


def _recipes() -> list[tuple[str, str]]:
    """Return the recipes that can be chosen, each with a sentence; first the server's own if it is a file."""
    own = settings.DISTILLATION_RECIPE
    first = [] if own in SUMMARIES else [(own, "the recipe of this server (DISTILLATION_RECIPE).")]
    return [*first, *SUMMARIES.items()]


@admin.register(Run)
class RunAdmin(ReadOnlyMixin, ObjectActionsMixin, ModelAdmin):
    list_display = ("named", "status_badge", "progress", "outcome_badge", "what_for", "took", "created")  # fmt: skip
    list_filter = (("status", ChoicesDropdownFilter), ("outcome", ChoicesDropdownFilter))
    list_filter_submit = True
    list_select_related = ("teacher", "begins_with", "release")
    search_fields = ("name",)
    actions = ("pause", "resume", "cancel")
    object_actions = ("pause", "resume", "cancel")
    change_form_outer_before_template = "distillation/admin/run.html"
    readonly_fields = ("status_badge", "outcome_badge")
    fieldsets = (
        (
            "Inputs",
            {
                "fields": (
                    ("teacher", "begins_with"),
                    ("variants", "catalogue"),
                    "recipe",
                    ("trigger", "created_by"),
                    "reasons",
                )
            },
        ),
        (
            "Result",
            {
                "fields": (
                    ("policy", "outcome_badge"),
                    "outcome_reason",
                    ("release", "replaces"),
                    ("created_at", "started_at"),
                    "finished_at",
                )
            },
        ),
        ("Worker", {"fields": (("worker_name", "lease_expires_at"), ("token", "failures"))}),
    )

    # --- beginning one
    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return ModelAdmin.has_add_permission(self, request)

    def get_form(self, request: HttpRequest, obj: Any = None, *args: Any, **kwargs: Any) -> Any:
        if obj is None:
            return RunForm
        return super().get_form(request, obj, *args, **kwargs)

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        if obj is None:
            return [(None, {"fields": ["recipe", "changes", "trains_on", "policy"]})]
        return super().get_fieldsets(request, obj)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        return [] if obj is None else super().get_readonly_fields(request, obj)

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        return {"recipe": settings.DISTILLATION_RECIPE, "policy": settings.PROMOTION}

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> Any:
        if object_id is None:  # ReadOnlyMixin forbids POST
            try:
                return ModelAdmin.changeform_view(self, request, None, form_url, extra_context)
            except GenerationError as error:
                messages.error(request, error.detail)
                return redirect(request.get_full_path())
        return super().changeform_view(request, object_id, form_url, extra_context)

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        data = form.cleaned_data
        run = redistillation.start(
            recipe=data["changes"] or data["recipe"],
            is_warm=data["trains_on"],
            policy=data["policy"],
            created_by=request.user,
        )
        obj.__dict__.update(run.__dict__)

    # --- pages
    def get_urls(self) -> list:
        now = self.admin_site.admin_view(self.now_view)
        file = self.admin_site.admin_view(self.file_view)
        samples = self.admin_site.admin_view(self.samples_view)
        own = [
            path("<int:run_id>/now/", now, name="distillation_run_now"),
            path("<int:run_id>/samples/", samples, name="distillation_run_samples"),
            path("<int:run_id>/<str:name>/file/", file, name="distillation_run_file"),
        ]
        return [*own, *super().get_urls()]

    def now_view(self, request: HttpRequest, run_id: int) -> HttpResponse:
        """Return the state that the run's page polls."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        return JsonResponse(self._now(get_object_or_404(Run, pk=run_id)))

    def _now(self, run: Run) -> dict[str, Any]:
        sheet = curves.sheet(run)
        return {
            "status": run.status,
            "percent": run.percent,
            "stage": run.stage,
            "slice": run.token,
            "is_open": run.is_open,
            "curves": [asdict(curve) for curve in curves.curves(run)],
            "samples": None
            if sheet is None
            else {
                "stage": sheet.stage,
                "step": sheet.step,
                "steps": sheet.steps,
                "texts": sheet.texts,
                "version": sheet.version,
                "url": reverse("admin:distillation_run_samples", args=[run.pk]),
            },
        }

    def samples_view(self, request: HttpRequest, run_id: int) -> HttpResponse:
        """Serve the latest sample sheet."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        sheet = curves.sheet(get_object_or_404(Run, pk=run_id))
        return files.respond(request, None if sheet is None else sheet.path)

    def file_view(self, request: HttpRequest, run_id: int, name: str) -> HttpResponse:
        """Serve the report of its evaluation, or an image of that."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        run = get_object_or_404(Run, pk=run_id)
        return files.respond(request, _files(run).get(name))

    def panel(self, request: HttpRequest, obj: Any) -> dict[str, Any]:
        slices = [
            {
                "row": row,
                "badge": pictures.badge(row.outcome),
                "took": seconds_between(row.started_at, row.ended_at),
            }
            for row in obj.slices.order_by("-number")[:12]
        ]
        links = {
            name: reverse("admin:distillation_run_file", args=[obj.pk, name])
            for name in _files(obj)
        }
        sheet = next((name for name in FILES[:2] if name in links), None)
        is_measured = obj.release is not None and evaluations.of(obj.release) is not None
        lost = obj.slices.filter(outcome="lost").count()
        return {
            "run": obj,
            "now": self._now(obj) | {"url": reverse("admin:distillation_run_now", args=[obj.pk])},
            "badge": pictures.badge(obj.status),
            "outcome": pictures.badge(obj.outcome),
            "took": seconds_between(obj.created_at, obj.finished_at),
            "slices": slices,
            "lost": lost,
            "sheet": {"url": links[sheet], "caption": evaluations.CAPTIONS[sheet]}
            if sheet
            else None,
            "report": links.get(reports.REPORT),
            "evaluation_url": reverse("admin:distillation_evaluation_change", args=[obj.release_id])
            if is_measured
            else None,
            "checks": obj.checks,
        }

    # --- columns
    def get_queryset(self, request: HttpRequest) -> QuerySet[Run]:
        return super().get_queryset(request).annotate(slice_count=Count("slices"))

    @display(description="run", ordering="name")
    def named(self, run: Run) -> Any:
        how = f"continued from {run.begins_with}" if run.begins_with else f"from {run.teacher}"
        return pictures.wording(run.name, how)

    @display(description="status", ordering="status")
    def status_badge(self, run: Run) -> str:
        return pictures.badge(run.status, run.error_detail)

    @display(description="progress", ordering="percent")
    def progress(self, run: Run) -> Any:
        return format_html(
            '<span class="rt-progress rt-nowrap"><progress max="100" value="{}"></progress>{} %</span>',
            run.percent,
            f"{run.percent:.0f}",
        )

    @display(description="outcome", ordering="outcome")
    def outcome_badge(self, run: Run) -> str:
        return pictures.badge(run.outcome)

    @display(description="reason")
    def what_for(self, run: Run) -> str:
        return run.reasons[0] if run.reasons else run.get_trigger_display()

    @display(description="duration")
    def took(self, run: Run) -> str:
        return pictures.nowrap(seconds_between(run.created_at, run.finished_at))

    created = pictures.when_column("created_at", "created")

    # --- actions
    def action_applies(self, name: str, obj: Any) -> bool:
        return {
            "pause": obj.status in (Run.Status.QUEUED, Run.Status.RUNNING),
            "resume": obj.status in (Run.Status.PAUSED, Run.Status.FAILED),
            "cancel": obj.is_open,
        }[name]

    def confirmation(self, name: str, obj: Any) -> str:
        if name == "cancel":
            return (
                f"{obj.name} is stopped for good and cannot be resumed. Pause it to continue later."
            )
        return ""

    @action(description="Pause", icon="pause_circle", permissions=["change"])
    def pause(self, request: HttpRequest, queryset: QuerySet) -> None:
        self._each(request, queryset, runs.pause)

    @action(description="Resume", icon="play_circle", permissions=["change"])
    def resume(self, request: HttpRequest, queryset: QuerySet) -> None:
        self._each(request, queryset, runs.resume)

    @action(description="Cancel", icon="cancel", permissions=["change"])
    def cancel(self, request: HttpRequest, queryset: QuerySet) -> None:
        self._each(request, queryset, runs.cancel)

    def _each(self, request: HttpRequest, queryset: QuerySet, change: Callable[[Run], Run]) -> None:
        for run in list(queryset):
            try:
                changed = change(run)
            except GenerationError as error:
                messages.error(request, error.detail)
                continue
            self.log_change(request, changed, f"{changed.get_status_display()} in the admin.")
            messages.success(request, f"{changed.name} is {changed.status}.")


def _files(run: Run) -> dict[str, Path]:
    """Return the files of its evaluation by name: kept ones, otherwise those made so far."""
    places = [folders.report(run.name)]
    places += [place for name in reports.KEPT if (place := folders.stage(run, name))]
    return {
        name: path
        for place in reversed(places)
        for name in FILES
        if (path := place / name).is_file()
    }


@admin.register(Decision)
class DecisionAdmin(ReadOnlyMixin, ModelAdmin):
    list_display = ("created", "verdict", "why", "run")
    list_filter = ("is_start",)
    list_select_related = ("run",)

    created = pictures.when_column("created_at", "decided at")

    @display(description="decision", ordering="is_start")
    def verdict(self, decision: Decision) -> str:
        return pictures.badge("started" if decision.is_start else "not started")

    @display(description="reason")
    def why(self, decision: Decision) -> str:
        return str(decision)
