"""Admin of designs: request, progress, front and choice; cancel."""

from pathlib import Path
from typing import Any

from django import forms
from django.conf import settings
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.html import format_html
from unfold.admin import ModelAdmin
from unfold.contrib.filters.admin import ChoicesDropdownFilter
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from distillation.admin import files
from distillation.design import files as results
from distillation.design import table
from distillation.design.limits import BEST, WISHES, LimitRefused, shown
from distillation.designs import briefs
from distillation.designs import lifecycle as designs
from distillation.designs.candidates import Rows
from distillation.models import Design
from distillation.pipeline.summaries import SUMMARIES
from distillation.reports import durations
from generation.admin import pictures
from generation.admin.actions import ObjectActionsMixin, RequestedMixin
from generation.errors import GenerationError

PROGRESS = "distillation/admin/design_progress.html"
FILES = (results.REPORT, results.PNG, results.SVG, results.CSV, results.RECIPE)
HEADS = ("candidate", "student", "passes", "decoder", "size", "time", "quality", "training")


def _text(label: str, help_text: str, *, required: bool = False) -> forms.CharField:
    return forms.CharField(
        label=label,
        help_text=help_text,
        required=required,
        max_length=100,
        widget=UnfoldAdminTextInputWidget(),
    )


class DesignForm(forms.ModelForm):
    """Form to request a design."""

    size = _text("Size", "Largest size of the release, such as 8MB.")
    time = _text(
        "Time", "Longest time of one picture on a worker's device, such as 12ms@cpu or 3ms@cuda."
    )
    memory = _text("Memory", "Largest memory of the process, or of the GPU, such as 500MB.")
    quality = _text("Quality", "Lowest quality: right pictures, student ÷ teacher, such as 0.97.")
    wish = forms.ChoiceField(
        choices=[(wish, wish) for wish in WISHES],
        initial=BEST,
        widget=UnfoldAdminSelectWidget,
        help_text="Which student within the limits is chosen.",
    )
    hours = _text(
        "Hours", "Of work, such as 2. A worker stops for jobs and runs between.", required=True
    )
    tags = _text("Tags", "Only prompt variants with one of these tags, separated by commas.")

    class Meta:
        model = Design
        fields = ("wish",)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        own = settings.DISTILLATION_RECIPE
        self.fields["recipe"] = forms.ChoiceField(
            choices=[(name, name) for name in dict.fromkeys((own, *SUMMARIES))],
            widget=UnfoldAdminSelectWidget,
            initial=own,
            help_text="The recipe that candidates are variations of.",
        )
        self.brief: briefs.Brief | None = None

    def clean_hours(self) -> float:
        try:
            return float(self.cleaned_data["hours"])
        except ValueError:
            raise forms.ValidationError("Give a number, such as 2 or 0.5.") from None

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        if self.errors:
            return data
        own = data["recipe"] == settings.DISTILLATION_RECIPE
        try:
            self.brief = briefs.of(
                **{name: data[name] for name in ("size", "time", "memory", "quality", "wish")},
                hours=data["hours"],
                recipe=None if own else {"recipe": data["recipe"]},
                tags=[tag.strip() for tag in data["tags"].split(",") if tag.strip()],
                is_for_workers=True,
            )
        except LimitRefused as error:
            self.add_error(error.field, error.reason)
        except GenerationError as error:
            self.add_error(None, error.detail)
        return data


@admin.register(Design)
class DesignAdmin(RequestedMixin, ObjectActionsMixin, ModelAdmin):
    add_form = DesignForm
    add_fields = ("size", "time", "memory", "quality", "wish", "hours", "tags", "recipe")
    list_display = ("named", "status_badge", "progress", "limits_words", "wish", "result", "created")  # fmt: skip
    list_filter = (("status", ChoicesDropdownFilter),)
    list_filter_submit = True
    list_select_related = ("teacher", "student")
    actions = ("cancel",)
    object_actions = ("cancel",)
    change_form_outer_before_template = "distillation/admin/design.html"
    readonly_fields = ("limits_words",)
    fieldsets = (
        (
            "Request",
            {
                "fields": (
                    ("limits_words", "device"),
                    ("wish", "hours"),
                    ("teacher", "student"),
                    ("tags", "catalogue"),
                    "recipe",
                    "created_by",
                )
            },
        ),
        ("Worker", {"fields": (("worker_name", "lease_expires_at"), ("created_at", "finished_at"))}),
    )  # fmt: skip

    # --- requesting one
    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        design = designs.create(form.brief, is_for_workers=True, created_by=request.user)
        obj.__dict__.update(design.__dict__)

    # --- pages
    def get_urls(self) -> list:
        return [
            self.page("<int:number>/now/", self.now_view, "distillation_design_now"),
            self.page("<int:number>/files/<path:name>", self.file_view, "distillation_design_file"),
            *super().get_urls(),
        ]

    def now_view(self, request: HttpRequest, number: int) -> HttpResponse:
        """Return the state that the design's page polls."""
        return JsonResponse(self._now(get_object_or_404(Design, pk=number)))

    def file_view(self, request: HttpRequest, number: int, name: str) -> HttpResponse:
        """Serve a file of the results by its relative path, by which the report links its sheets."""
        return files.respond(request, _files(get_object_or_404(Design, pk=number)).get(name))

    def _now(self, design: Design) -> dict[str, Any]:
        return {
            "status": design.status,
            "percent": design.percent,
            "is_open": design.is_open,
            "html": render_to_string(PROGRESS, self._progress(design)),
        }

    def _progress(self, design: Design) -> dict[str, Any]:
        return {
            "design": design,
            "badge": pictures.badge(design.status),
            "worked": durations.in_words(design.seconds),
            "heads": HEADS,
            "rows": [
                [row[head] for head in HEADS] for row in map(table.cells, Rows(design).read())
            ],
        }

    def panel(self, request: HttpRequest, obj: Any) -> dict[str, Any]:
        found = _files(obj)
        named = {
            "report": results.REPORT, "table": results.CSV, "plot": results.PNG, "recipe": results.RECIPE,
        }  # fmt: skip
        links = {
            key: reverse("admin:distillation_design_file", args=[obj.pk, name])
            for key, name in named.items()
            if name in found
        }
        now = self._now(obj) | {"url": reverse("admin:distillation_design_now", args=[obj.pk])}
        return self._progress(obj) | {"links": links, "now": now}

    # --- columns
    @display(description="design", ordering="pk")
    def named(self, design: Design) -> Any:
        return pictures.wording(design.name, f"from {design.teacher}")

    @display(description="status", ordering="status")
    def status_badge(self, design: Design) -> str:
        return pictures.badge(design.status, design.error_detail)

    @display(description="progress", ordering="percent")
    def progress(self, design: Design) -> Any:
        return format_html(
            '<span class="rt-progress rt-nowrap"><progress max="100" value="{}"></progress>{} %</span>',
            design.percent,
            f"{design.percent:.0f}",
        )

    @display(description="limits")
    def limits_words(self, design: Design) -> str:
        return ", ".join(f"{name} {shown(name, value)}" for name, value in design.limits.items())

    @display(description="choice")
    def result(self, design: Design) -> str:
        return design.reason or design.at_work

    created = pictures.when_column("created_at", "created")

    # --- actions
    def action_applies(self, name: str, obj: Any) -> bool:
        return bool(obj.is_open)

    def confirmation(self, name: str, obj: Any) -> str:
        return f"{obj.name} is stopped for good. The measurements of its candidates are kept."

    @action(description="Cancel", icon="cancel", permissions=["change"])
    def cancel(self, request: HttpRequest, queryset: QuerySet) -> None:
        self.change_each(request, queryset, designs.cancel)


def _files(design: Design) -> dict[str, Path]:
    """Return the paths of the result files that exist, by their path relative to the results folder."""
    folder = designs.output(design)
    names = [*FILES, *(f"{results.SHEETS}/{path.name}" for path in folder.glob("sheets/*.webp"))]
    return {name: folder / name for name in names if (folder / name).is_file()}
