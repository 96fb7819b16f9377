"""Admin of evaluations: measures of a release compared with the previous active release and the teacher."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from django.contrib import admin
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.template.defaultfilters import filesizeformat
from django.urls import reverse
from unfold.admin import ModelAdmin
from unfold.contrib.filters.admin import ChoicesDropdownFilter
from unfold.decorators import display

from distillation.admin import files
from distillation.models import Evaluation, Run
from distillation.reports import evaluations as reports
from distillation.reports import explanation
from distillation.reports.evaluations import OfVariant, Report
from generation.admin import pictures
from generation.admin.actions import ObjectActionsMixin, ReadOnlyMixin
from generation.models import Release

ALL = "all attributes"  # the headline entry of `right` in a report
MEASURES = {  # of the margins
    "attributes_right": "all attributes right, ÷ teacher",
    "worst_prompts": "all attributes right, worst tenth of prompts, − teacher",
    "each_prompt": "all attributes right, prompt with the greatest loss, − teacher",
    "diversity": "diversity within a prompt, ÷ teacher",
    "clip_score": "CLIP score, − teacher",
    "sharpness": "sharpness (mean gradient), ÷ teacher",
}
HEADS = {  # orders of the table of variants, with their direction
    "prompt": ("prompt", "ascending"),
    "right": ("all attributes right, %", "ascending"),
    "clip": ("CLIP score, change", "ascending"),
    "diversity": ("diversity ÷ teacher", "ascending"),
    "distance": ("distance to teacher", "descending"),
}
CAPTIONS = {
    "compared.webp": "Same prompts and seeds: teacher, active release, candidate",
    "sheet.webp": "Same prompts and seeds: teacher on the left, candidate on the right",
    "worst.webp": "Prompts that lost most: teacher on the left, candidate on the right",
    "attributes.png": "Images with all attributes right, by prompt",
    "diversity.png": "Diversity of each prompt, relative to the teacher",
    "clip.png": "CLIP score of each prompt",
    "speed.png": "Time per image, by part",
}
ON_A_PAGE = 100  # variants
FORMAT = 1  # of the evaluation in a manifest
SIDES = ("student", "teacher")  # keys of the evaluation's figures


def run_of(release: Release) -> Run | None:
    """Return the run that made the release."""
    return Run.objects.filter(release_id=release.pk).select_related("replaces").first()


def of(release: Release) -> Mapping[str, Any] | None:
    """Return the evaluation in the release's manifest; None if there is none of a known format."""
    found = release.manifest.get("evaluation")
    return found if isinstance(found, dict) and found.get("format_version") == FORMAT else None


def verdict(release: Release, run: Run | None) -> Any:
    """Return a badge: the result of the run's gate if there is one, otherwise of the comparison with the teacher."""
    if run is not None and run.gate:
        if explanation.is_undecided(run.gate):
            return pictures.badge("inconclusive")
        return pictures.badge("passed" if run.gate["passed"] else "not passed")
    found = of(release)
    return pictures.badge(found["outcome"]) if found else "–"


def share_right(release: Release) -> str:
    """Return "release ← teacher": shares of images with all attributes right, on the shared seeds if there are any."""
    found = of(release)
    right = ((found or {}).get("core") or found or {}).get("right")
    if not right:
        return "–"
    return " ← ".join(f"{100 * right[side]['value']:.1f} %" for side in SIDES)


@admin.register(Evaluation)
class EvaluationAdmin(ReadOnlyMixin, ObjectActionsMixin, ModelAdmin):
    when_empty = "A run evaluates its release."
    list_display = ("named", "verdict_badge", "right", "failed", "status_badge", "measured")
    list_filter = (("status", ChoicesDropdownFilter),)
    list_filter_submit = True
    search_fields = ("name",)
    list_select_related = ("run__replaces",)
    change_form_outer_before_template = "distillation/admin/evaluation.html"
    readonly_fields = ("status_badge", "measured")
    fieldsets = ((None, {"fields": (("name", "status_badge"), "measured")}),)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Evaluation]:
        return super().get_queryset(request).filter(manifest__evaluation__format_version=FORMAT)

    # --- columns
    @display(description="release", ordering="name")
    def named(self, row: Evaluation) -> Any:
        run = getattr(row, "run", None)
        others = [of(row)["teacher"]]  # type: ignore[index]
        if run is not None and run.replaces:
            others.append(run.replaces.name)
        return pictures.wording(row.name, f"against {' and '.join(others)}")

    @display(description="verdict")
    def verdict_badge(self, row: Evaluation) -> Any:
        return verdict(row, getattr(row, "run", None))

    @display(description="all attributes right ← teacher")
    def right(self, row: Evaluation) -> str:
        return pictures.nowrap(share_right(row))

    @display(description="not passed")
    def failed(self, row: Evaluation) -> str:
        run = getattr(row, "run", None)
        checks = run.checks if run else []
        return ", ".join(check["name"] for check in checks if not check["passed"]) or "–"

    @display(description="status", ordering="status")
    def status_badge(self, row: Evaluation) -> str:
        return pictures.badge(row.status)

    measured = pictures.when_column("registered_at", "measured")

    # --- pages
    def get_urls(self) -> list:
        route = "<int:release_id>/<str:name>/file/"
        own = self.page(route, self.file_view, "distillation_evaluation_file")
        return [own, *super().get_urls()]

    def file_view(self, request: HttpRequest, release_id: int, name: str) -> HttpResponse:
        report = reports.read(get_object_or_404(Evaluation, pk=release_id).name)
        if report is None or name not in report.files:
            raise Http404
        return files.respond(request, report.folder / name)

    def panel(self, request: HttpRequest, obj: Any) -> dict[str, Any]:
        run, report, found = run_of(obj), reports.read(obj.name), of(obj)
        if found is None:
            return {}
        links = {
            name: reverse("admin:distillation_evaluation_file", args=[obj.pk, name])
            for name in (report.files if report else ())
        }
        active = run.replaces if run is not None and report and report.active else None
        context = {
            "evaluation": obj,
            "verdict": verdict(obj, run),
            "found": found,
            "run": run,
            "active": active,
            "teacher": Release.objects.filter(name=found["teacher"]).first(),
            "headline": _headline(found, report),
            "margins": [
                (MEASURES.get(row["measure"], row["measure"]), row, pictures.badge(row["outcome"]))
                for row in found["verdicts"]
                if row["estimate"] is not None
            ],
            "checks": explanation.table(run.checks) if run else [],
            "prompts": run.prompts if run else None,
            "blind_to": report.figures.get("blind_to") if report else None,
            "report": links.get(reports.REPORT),
            "sheets": _pictures(links, _sheets(links)),
            "plots": _pictures(links, reports.PLOTS),
        }
        return context | (_variants(request, report) if report else {})


def _sheets(links: Mapping[str, str]) -> tuple[str, ...]:
    """Return the file names of two sheets: of three releases if it exists, else of two; and of the worst prompts."""
    first = reports.COMPARED if reports.COMPARED in links else reports.SHEETS[0]
    return (first, *reports.SHEETS[1:])


def _pictures(links: Mapping[str, str], names: tuple[str, ...]) -> list[dict[str, str]]:
    return [{"url": links[n], "caption": CAPTIONS[n]} for n in names if n in links]


# --- figures --------------------------------------------------------------------------------------
def _headline(found: Mapping[str, Any], report: Report | None) -> list[tuple[str, ...]]:
    """Return rows (measure, candidate, active, teacher) as text; "–" = not measured."""
    active = (report.active if report else None) or {}
    others = {
        "right": (active.get("right") or {}).get(ALL),
        "clip_score": active.get("clip_score"),
        "spread": active.get("spread"),
        "sharpness": active.get("sharpness"),
        "core": (active.get("core") or {}).get("right"),
    }
    rows: list[tuple[str, ...]] = []
    for name, measure, scale, form in (
        ("all attributes right, %", "right", 100.0, ".1f"),
        ("the same on the seeds that all evaluations share", "core", 100.0, ".1f"),
        ("CLIP score", "clip_score", 1.0, ".2f"),
        ("diversity within a prompt", "spread", 1.0, ".3f"),
        ("sharpness, mean gradient in levels per pixel", "sharpness", 1.0, ".2f"),
    ):
        sides = ((found.get("core") or {}).get("right") if measure == "core" else found.get(measure)) or {}  # fmt: skip
        values = (
            sides.get("student"),
            (others[measure] or {}).get("student"),
            sides.get("teacher"),
        )
        rows.append((name, *(_interval(value, scale, form) for value in values)))
    distances = (found.get("distance"), active.get("distance"))
    rows.append(("distance to the teacher", *(_interval(d, 1.0, ".3f") for d in distances), "0"))
    seconds = found.get("seconds_per_picture") or {}
    speed = (active.get("student") or {}).get("speed")
    of_active = speed["seconds"]["total"]["median"] if speed else None
    times = (seconds.get("student"), of_active, seconds.get("teacher"))
    rows.append(("seconds per image, median", *map(_seconds, times)))
    if report is not None:
        sizes = (report.figures["student"], active.get("student"), report.figures["teacher"])
        rows.append(("size on disk, without the text encoder", *map(_size, sizes)))
        pictures_each = report.figures["seeds_each"]
        counts = (found["prompts"], active.get("prompts"), found["prompts"])
        each = (f"{n} × {pictures_each}" if n else "–" for n in counts)
        rows.append(("prompt variants × seeds", *each))
    return [row for row in rows if row[1] != "–"]


def _interval(value: Mapping[str, Any] | None, scale: float, form: str) -> str:
    if not value or value.get("value") is None:
        return "–"
    text = f"{scale * value['value']:{form}}"
    if value.get("low") is None or value.get("high") is None:
        return text
    return f"{text} ({scale * value['low']:{form}} – {scale * value['high']:{form}})"


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _size(side: Mapping[str, Any] | None) -> str:
    return filesizeformat(sum(side["bytes_on_disk"].values())) if side else "–"


def _variants(request: HttpRequest, report: Report) -> dict[str, Any]:
    """Return one page of the table, in the order of the query: worst first."""
    order = request.GET.get("order", "")
    order = order if order in reports.ORDERS else "right"
    page = Paginator(report.variants(order), ON_A_PAGE).get_page(request.GET.get("page"))

    def link(**fields: object) -> str:
        return f"?{urlencode({'order': order, **fields})}#variants"

    return {
        "variants": page,
        "rows": [(row, _shares(row)) for row in page],
        "heads": [
            (text, link(order=name), direction if name == order else "")
            for name, (text, direction) in HEADS.items()
        ],
        "previous": link(page=page.previous_page_number()) if page.has_previous() else None,
        "following": link(page=page.next_page_number()) if page.has_next() else None,
    }


def _shares(row: OfVariant) -> list[str]:
    """Return percentages of candidate, active and teacher, and the change in percentage points."""
    shares = ["–" if share is None else f"{100 * share:.0f}" for share in row.right.values()]
    change = row.right_change
    return [*shares, "–" if change is None else f"{100 * change:+.0f}"]
