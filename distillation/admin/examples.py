"""Admin of examples: a grid of images, decisions of people, agreement with the detector."""

from typing import Any, cast

from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.db.models import Prefetch, QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.html import format_html
from unfold.admin import ModelAdmin
from unfold.contrib.filters.admin import RelatedDropdownFilter
from unfold.decorators import action, display

from distillation.admin.example_filters import (
    FailingBitFilter,
    OverrideFilter,
    RefusalFilter,
    StandingFilter,
    VariantFilter,
    VerdictFilter,
)
from distillation.admin.review import DECISIONS, ReviewMixin
from distillation.examples import lifecycle as examples
from distillation.models import Detector, Example, Verdict
from generation.admin import pictures
from generation.admin.actions import ObjectActionsMixin, ReadOnlyMixin

SAID = {"accept": "accepted", "reject": "rejected", "clear": "left to the detector"}


@admin.register(Example)
class ExampleAdmin(ReviewMixin, ReadOnlyMixin, ObjectActionsMixin, ModelAdmin):
    when_empty = "Examples are the images of image sources."
    list_display = ("picture", "verdict", "failing", "decision", "origin")
    list_filter = (
        VerdictFilter,
        FailingBitFilter,
        OverrideFilter,
        ("source", RelatedDropdownFilter),
        VariantFilter,
        RefusalFilter,
        StandingFilter,
    )
    list_filter_submit = True
    list_per_page = 60
    show_full_result_count = False
    search_fields = ("location", "source__name", "sha256__startswith")
    search_help_text = "File, source, or the beginning of the SHA-256"
    list_select_related = ("source", "overridden_by")
    actions = ("accept", "reject", "clear")
    object_actions = ("accept", "reject", "clear")
    actions_list = ("review", "precision")
    change_form_outer_before_template = "distillation/admin/example.html"
    fieldsets = (
        (
            "Origin",
            {
                "fields": (
                    ("source", "location"),
                    ("width", "height"),
                    ("side", "created_at"),
                    "sha256",
                )
            },
        ),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Example]:
        active = Verdict.objects.filter(detector=examples.active_detector())
        rows = super().get_queryset(request)
        return rows.prefetch_related(Prefetch("verdicts", active, to_attr="active_verdicts"))

    # --- pages
    def get_urls(self) -> list:
        # cacheable: otherwise the admin forbids caching, and a grid loads its images again each time.
        route, name = "<int:example_id>/picture/<str:size>/", "distillation_example_picture"
        return [self.page(route, self.picture_view, name, cacheable=True), *super().get_urls()]

    def picture_view(self, request: HttpRequest, example_id: int, size: str) -> HttpResponse:
        example = get_object_or_404(Example, pk=example_id)
        if not example.file:
            raise Http404
        title = f"example-{example.pk}"
        return pictures.respond_file(request, example.file, size, title=title, pixels=example.side)

    @action(
        description="Precision by bit", url_path="precision", icon="analytics", permissions=["view"]
    )
    def precision(self, request: HttpRequest) -> HttpResponse:
        """Show how far people agree with a detector version: ?detector=NAME, default the active one."""
        name = request.GET.get("detector")
        known = Detector.objects.all()
        detector = get_object_or_404(known, name=name) if name else examples.active_detector()
        context = self.admin_site.each_context(request) | {
            "title": "Precision by bit",
            "opts": self.opts,
            "detector": detector,
            "detectors": known,
            "precision": examples.precision(detector) if detector else None,
            "examples": reverse("admin:distillation_example_changelist"),
        }
        return TemplateResponse(request, "distillation/admin/precision.html", context)

    def panel(self, request: HttpRequest, obj: Any) -> dict[str, Any]:
        history = list(obj.verdicts.select_related("detector").order_by("-created_at"))
        shown = next(iter(obj.active_verdicts), None) or next(iter(history), None)
        return {
            "example": obj,
            "full": _picture(obj, "full") if obj.file else "",
            "state": self.verdict(obj),
            "shown": shown,
            "bits": _bits(shown) if shown else [],
            "history": [
                {"row": row, "badge": pictures.badge("accepted" if row.is_accepted else "rejected")}
                for row in history
            ],
            "variants": obj.source.variants.all(),
        }

    # --- columns
    @display(description="picture")
    def picture(self, example: Example) -> Any:
        if not example.file:
            return format_html('<span class="rt-no-picture">{}</span>', example.refusal)
        return format_html(
            '<img src="{}" alt="{}" loading="lazy">',
            _picture(example, "thumbnail"),
            f"Example {example.pk}: {example.location}",
        )

    @display(description="verdict")
    def verdict(self, example: Any) -> str:
        """Return a badge of the effective decision: a person's, otherwise the active detector's."""
        if example.refusal:
            return pictures.badge("refused", example.refusal_detail)
        by_detector = next(iter(example.active_verdicts), None)
        said = "accepted" if by_detector and by_detector.is_accepted else "rejected"
        detail = f"{said} by the detector, score {by_detector.score:.2f}" if by_detector else ""
        if example.override:
            return pictures.badge(example.override, detail)
        return pictures.badge(said if by_detector else "not judged", detail)

    @display(description="failing bits")
    def failing(self, example: Any) -> str:
        if example.refusal:
            return example.refusal_detail
        return ", ".join(bit for found in example.active_verdicts for bit in found.failing)

    @display(description="decision by people", ordering="overridden_at")
    def decision(self, example: Example) -> Any:
        if not example.override:
            return ""
        return format_html(
            "{} by {}", example.get_override_display().split()[0], example.overridden_by
        )

    @display(description="source", ordering="source__name")
    def origin(self, example: Example) -> Any:
        return pictures.wording(example.source.name, example.location)

    # --- actions
    def action_applies(self, name: str, obj: Any) -> bool:
        return not obj.refusal and obj.override != DECISIONS[name]

    @action(description="Accept", icon="thumb_up", permissions=["change"])
    def accept(self, request: HttpRequest, queryset: QuerySet) -> None:
        self._decide(request, queryset, "accept")

    @action(description="Reject", icon="thumb_down", permissions=["change"])
    def reject(self, request: HttpRequest, queryset: QuerySet) -> None:
        self._decide(request, queryset, "reject")

    @action(description="Leave to the detector", icon="undo", permissions=["change"])
    def clear(self, request: HttpRequest, queryset: QuerySet) -> None:
        self._decide(request, queryset, "clear")

    def _decide(self, request: HttpRequest, queryset: QuerySet, name: str) -> None:
        changed = self.change_override(request, queryset, name)
        said = SAID[name]
        noun = "image is" if changed == 1 else "images are"
        level = messages.SUCCESS if changed else messages.WARNING
        self.message_user(request, f"{changed} {noun} {said}.", level)

    def change_override(self, request: HttpRequest, queryset: QuerySet, name: str) -> int:
        """Store the person's decision on these examples, also in the log of each. Return the number of changes."""
        chosen = Example.objects.filter(pk__in=queryset.order_by().values("pk"))
        changing = list(chosen.filter(refusal="").exclude(override=DECISIONS[name]))
        changed = examples.override(chosen, DECISIONS[name], by=request.user)
        if changing:
            message = f"{SAID[name].capitalize()} in the admin."
            LogEntry.objects.log_actions(cast(int, request.user.pk), changing, CHANGE, message)
        return changed


def _picture(example: Example, size: str) -> str:
    return reverse("admin:distillation_example_picture", args=[example.pk, size])


def _bits(verdict: Verdict) -> list[dict[str, Any]]:
    """Return the rows of the probability bars: failing bits first, then required and forbidden ones."""
    rows = [
        {
            "name": bit,
            "percent": 100 * probability,
            "is_failing": bit in verdict.failing,
            "said": "required"
            if bit in verdict.present
            else "forbidden"
            if bit in verdict.absent
            else "",
        }
        for bit, probability in verdict.probabilities.items()
    ]
    return sorted(rows, key=lambda row: (not row["is_failing"], not row["said"], -row["percent"]))
