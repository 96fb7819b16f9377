"""Admin of runs: start, progress, gate, decisions, results; pause, resume, cancel."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib import admin, messages
from django.db.models import Count, QuerySet
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.html import format_html
from unfold.admin import ModelAdmin
from unfold.contrib.filters.admin import ChoicesDropdownFilter
from unfold.decorators import action, display

from distillation import folders
from distillation.admin import approvals, evaluations, files, run_form
from distillation.admin.approvals import ApprovalsMixin
from distillation.admin.run_form import RunForm
from distillation.errors import DistillationRefused
from distillation.models import Run
from distillation.reports import curves, durations, explanation, prompt_changes, stage_list
from distillation.reports import evaluations as reports
from distillation.runs import approval
from distillation.runs import lifecycle as runs
from distillation.runs import policy as redistillation
from generation.admin import pictures
from generation.admin.actions import ObjectActionsMixin, RequestedMixin
from generation.admin.jobs import seconds_between
from generation.errors import GenerationError

FILES = (
    reports.COMPARED,
    reports.SHEETS[0],
    reports.REPORT,
)  # of the evaluation, shown on its page
PROGRESS = "distillation/admin/run_progress.html"
SLICES = 12  # latest ones shown
PLAN = "_plan"  # name of the button that shows the plan


@admin.register(Run)
class RunAdmin(ApprovalsMixin, RequestedMixin, ObjectActionsMixin, ModelAdmin):
    add_form = RunForm
    add_fields = ("recipe", "changes", "trains_on", "part", "policy", "uploaded")
    list_display = ("named", "status_badge", "progress", "outcome_badge", "what_for", "took", "created")  # fmt: skip
    list_filter = (("status", ChoicesDropdownFilter), ("outcome", ChoicesDropdownFilter))
    list_filter_submit = True
    list_select_related = ("teacher", "begins_with", "release")
    search_fields = ("name",)
    actions = ("pause", "resume", "cancel")
    object_actions = ("pause", "resume", "cancel")
    change_form_outer_before_template = "distillation/admin/run.html"
    change_form_after_template = "distillation/admin/run_start.html"
    readonly_fields = ("status_badge", "outcome_badge")
    fieldsets = (
        (
            "Inputs",
            {
                "fields": (
                    ("teacher", "begins_with"),
                    ("variants", "catalogue"),
                    "tags",
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

    # --- creation
    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        default = {"recipe": settings.DISTILLATION_RECIPE, "policy": settings.PROMOTION}
        linked = super().get_changeform_initial_data(request)  # values in the URL
        return default | linked | getattr(request, "given", {})

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> Any:
        context = dict(extra_context or {})
        if object_id is None and PLAN in request.POST and self.has_add_permission(request):
            form = self.get_form(request)(request.POST, request.FILES)
            if form.is_valid():
                try:
                    context["plan"] = run_form.plan(form, request.user)
                except GenerationError as error:
                    messages.error(request, error.detail)
                # The form is shown again with what was given, and nothing is saved.
                request.method, request.given = "GET", form.given()  # type: ignore[attr-defined]
        return super().changeform_view(request, object_id, form_url, context)

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        request.given = form.given()  # type: ignore[attr-defined]
        planned = run_form.plan(form, request.user)
        if planned.unfit:
            raise DistillationRefused(" ".join(planned.unfit))
        run = redistillation.start(**form.arguments(request.user))
        obj.__dict__.update(run.__dict__)

    # --- pages
    def get_urls(self) -> list:
        return [
            self.page("<int:run_id>/now/", self.now_view, "distillation_run_now"),
            self.page("<int:run_id>/samples/", self.samples_view, "distillation_run_samples"),
            self.page("<int:run_id>/<str:name>/file/", self.file_view, "distillation_run_file"),
            *super().get_urls(),
        ]

    def now_view(self, request: HttpRequest, run_id: int) -> HttpResponse:
        """Return the state that the run's page polls."""
        return JsonResponse(self._now(get_object_or_404(Run, pk=run_id)))

    def _now(self, run: Run) -> dict[str, Any]:
        sheet = curves.sheet(run)
        return {
            "status": run.status,
            "percent": run.percent,
            "stage": run.stage,
            "slice": run.token,
            "is_open": run.is_open,
            "html": render_to_string(PROGRESS, self._progress(run)),
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
        sheet = curves.sheet(get_object_or_404(Run, pk=run_id))
        return files.respond(request, None if sheet is None else sheet.path)

    def file_view(self, request: HttpRequest, run_id: int, name: str) -> HttpResponse:
        """Serve the report of the run's evaluation, or one of its images."""
        run = get_object_or_404(Run, pk=run_id)
        return files.respond(request, _files(run).get(name))

    def _progress(self, run: Run) -> dict[str, Any]:
        """Return the context of the part of the page that is refreshed while the run is open."""
        seconds = durations.worked([run.pk]).get(run.pk, 0.0)
        left = durations.left(run, seconds)
        return {
            "run": run,
            "badge": pictures.badge(run.status),
            "outcome": self.outcome_badge(run),
            "worked": durations.in_words(seconds) if run.token else "",
            "left": _in_words(left),
            "took": seconds_between(run.created_at, run.finished_at),
            "stages": [
                (stage, *map(_in_words, (stage.seconds, stage.left)))
                for stage in stage_list.of(run)
            ],
            "pause": _pause(run),
            "lost": run.slices.filter(outcome="lost").count(),
            "slices": [
                {
                    "row": row,
                    "badge": pictures.badge(row.outcome),
                    "took": seconds_between(row.started_at, row.ended_at),
                }
                for row in run.slices.order_by("-number")[:SLICES]
            ],
        }

    def panel(self, request: HttpRequest, obj: Any) -> dict[str, Any]:
        links = {
            name: reverse("admin:distillation_run_file", args=[obj.pk, name])
            for name in _files(obj)
        }
        sheet = next((name for name in FILES[:2] if name in links), None)
        is_measured = obj.release is not None and evaluations.of(obj.release) is not None
        new = approval.new_prompts(obj)
        return self._progress(obj) | {
            "now": self._now(obj) | {"url": reverse("admin:distillation_run_now", args=[obj.pk])},
            "sheet": {"url": links[sheet], "caption": evaluations.CAPTIONS[sheet]}
            if sheet
            else None,
            "report": links.get(reports.REPORT),
            "evaluation_url": reverse("admin:distillation_evaluation_change", args=[obj.release_id])
            if is_measured
            else None,
            "checks": explanation.table(obj.checks),
            "blind_to": (obj.gate or {}).get("blind_to"),
            "prompts": obj.prompts,
            "prompts_said": prompt_changes.sentences(obj.prompts),
            "compare_url": approval.compare_url(obj),
            "blind_url": approval.compare_url(obj, blind=True),
            "new_title": approval.new_prompts_title(new),
            "new_url": approval.compare_url(obj, new=True) if new else "",
            "explained": explanation.explain(obj.gate) if obj.gate else None,
            "approvals": approvals.offered(request, obj),
            "waits": approval.waiting().filter(pk=obj.pk).exists(),
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
        """Return the outcome; a run that ended without one, because it failed or was canceled, has "–"."""
        is_without = run.outcome == Run.Outcome.PENDING and not run.is_open
        return "–" if is_without else pictures.badge(run.outcome)

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
        self.change_each(request, queryset, runs.pause)

    @action(description="Resume", icon="play_circle", permissions=["change"])
    def resume(self, request: HttpRequest, queryset: QuerySet) -> None:
        self.change_each(request, queryset, runs.resume)

    @action(description="Cancel", icon="cancel", permissions=["change"])
    def cancel(self, request: HttpRequest, queryset: QuerySet) -> None:
        self.change_each(request, queryset, runs.cancel)


def _in_words(seconds: float | None) -> str:
    return "" if seconds is None else durations.in_words(seconds)


def _pause(run: Run) -> str:
    """Return why and until when the run pauses after a failed slice; "" if it does not."""
    if run.status != Run.Status.QUEUED or not run.not_before or run.not_before <= timezone.now():
        return ""
    failed = run.slices.order_by("-number").first()
    why = failed.error_detail if failed is not None else ""
    at = date_format(timezone.localtime(run.not_before), "DATETIME_FORMAT")
    return f"{why} The next slice begins {at}; pause and resume the run to begin it now.".strip()


def _files(run: Run) -> dict[str, Path]:
    """Return the paths of the evaluation's files by name: of the kept report, otherwise of the stages."""
    places = [folders.report(run.name)]
    places += [place for name in reports.KEPT if (place := folders.stage(run, name))]
    return {
        name: path
        for place in reversed(places)
        for name in FILES
        if (path := place / name).is_file()
    }
