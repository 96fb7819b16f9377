"""Admin of detector versions: their bits, their accuracy, activation."""

from typing import Any

from django.contrib import admin
from django.db.models import Count, QuerySet
from django.http import HttpRequest
from django.template.defaultfilters import pluralize
from django.template.loader import render_to_string
from django.utils.html import format_html_join
from django.utils.safestring import mark_safe
from unfold.admin import ModelAdmin
from unfold.contrib.filters.admin import ChoicesDropdownFilter
from unfold.decorators import action, display

from distillation.detector.version import grouped
from distillation.detectors import registry as detectors
from distillation.models import Detector
from generation.admin import pictures
from generation.admin.actions import ObjectActionsMixin, ReadOnlyMixin

SHOWN = 8  # bits shown in a list


@admin.register(Detector)
class DetectorAdmin(ReadOnlyMixin, ObjectActionsMixin, ModelAdmin):
    list_display = ("named", "status_badge", "first_bits", "caught", "lost", "verdict_count", "registered")  # fmt: skip
    list_filter = (("status", ChoicesDropdownFilter),)
    list_filter_submit = True
    search_fields = ("name",)
    actions = ("activate",)
    object_actions = ("activate",)
    readonly_fields = (
        "status_badge", "all_bits", "required", "image_size", "caught", "lost", "by_defect", "by_bit", "trained_on",
    )  # fmt: skip
    fieldsets = (
        (
            "Capabilities",
            {"fields": (("name", "status_badge"), "all_bits", "required", ("image_size", "path"))},
        ),
        (
            "Accuracy in the test",
            {"fields": ("trained_on", ("caught", "lost"), "by_defect", "by_bit")},
        ),
        (None, {"fields": (("registered_at", "activated_at"), "manifest_sha256")}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Detector]:
        return super().get_queryset(request).annotate(verdict_total=Count("verdicts"))

    # --- columns
    @display(description="detector", ordering="name")
    def named(self, row: Detector) -> Any:
        return pictures.wording(
            row.name, f"{len(row.bits)} bit{pluralize(len(row.bits))}, {self.image_size(row)}"
        )

    @display(description="status", ordering="status")
    def status_badge(self, row: Detector) -> str:
        return pictures.badge(row.status)

    @display(description="bits")
    def first_bits(self, row: Detector) -> str:
        more = len(row.bits) - SHOWN
        return ", ".join(row.bits[:SHOWN]) + (f" and {more} more" if more > 0 else "")

    @display(description="bad images caught")
    def caught(self, row: Detector) -> str:
        return _share(_test(row), "bad_caught", "bad")

    @display(description="good images lost")
    def lost(self, row: Detector) -> str:
        return _share(_test(row), "good_lost", "good")

    @display(description="verdicts", ordering="verdict_total")
    def verdict_count(self, row: Any) -> int:
        return row.verdict_total

    registered = pictures.when_column("registered_at", "registered")

    # --- the page of one
    @display(description="bits")
    def all_bits(self, row: Detector) -> Any:
        """Return one line per group of exclusive bits."""
        groups = grouped(row.bits, row.manifest["groups"])
        return format_html_join(mark_safe("<br>"), "{}", ((", ".join(group),) for group in groups))

    @display(description="required in every image")
    def required(self, row: Detector) -> str:
        return ", ".join(row.manifest["required"]) or "–"

    @display(description="image size")
    def image_size(self, row: Detector) -> str:
        size = row.manifest.get("image_size")
        return f"{size}×{size}" if size else "–"

    @display(description="trained on")
    def trained_on(self, row: Detector) -> str:
        counts = row.manifest["figures"].get("pictures")
        if not counts:
            return "–"
        text = f"{counts['trained']} images, calibrated on {counts['held_out']} others"
        return text + (", which were also the test set" if _test(row).get("is_held_out") else "")

    @display(description="by defect")
    def by_defect(self, row: Detector) -> Any:
        return _table(
            ("defect", "caught", "failing bits"),
            [
                (
                    name,
                    f"{found['caught']} of {found['pictures']}",
                    ", ".join(
                        f"{bit} {count}" for bit, count in list(found["at_fault"].items())[:5]
                    ),
                )
                for name, found in _test(row).get("defects", {}).items()
            ],
        )

    @display(description="by bit")
    def by_bit(self, row: Detector) -> Any:
        return _table(
            ("bit", "precision", "recall", "threshold"),
            [
                (name, _percent(found["precision"]), _percent(found["recall"]), found["threshold"])
                for name, found in _test(row).get("bits", {}).items()
            ],
        )

    # --- actions
    def action_applies(self, name: str, obj: Any) -> bool:
        return obj.status != Detector.Status.ACTIVE

    @action(description="Activate", icon="check_circle", permissions=["change"])
    def activate(self, request: HttpRequest, queryset: QuerySet) -> None:
        self.change_each(
            request,
            queryset,
            detectors.activate,
            logged="Activated in the admin.",
            select_one="Only one version can be active. Select exactly one.",
        )


def _test(row: Detector) -> dict[str, Any]:
    return row.manifest["figures"].get("test", {})


def _share(figures: dict[str, Any], part: str, whole: str) -> str:
    if not figures.get(whole):
        return "–"
    return f"{figures[part]} of {figures[whole]} ({100 * figures[part] / figures[whole]:.1f} %)"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _table(heads: tuple[str, ...], rows: list[tuple[Any, ...]]) -> Any:
    if not rows:
        return "–"
    return render_to_string("distillation/admin/table.html", {"heads": heads, "rows": rows})
