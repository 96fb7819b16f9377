"""Admin page: cross table of the prompt catalogue by two kinds of tags, with missing and weak variants."""

from typing import Any
from urllib.parse import urlencode

from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse
from unfold.decorators import action

from generation.admin.variant_forms import overview_of
from generation.catalogue import crosstab
from generation.catalogue.crosstab import ALL, Cell
from generation.releases import quality


class VariantCrosstabMixin:
    """Mixin of the ModelAdmin of prompt variants."""

    actions_list: tuple[str, ...] = ("by_tags",)
    admin_site: Any
    opts: Any
    has_add_permission: Any

    @action(description="By tags", url_path="by-tags", icon="grid_on", permissions=["view"])
    def by_tags(self, request: HttpRequest) -> HttpResponse:
        """Show ?rows=KIND&columns=KIND for variants with all of ?tag=TAG. A kind is named by its first tag."""
        overview = overview_of(request)
        variants = crosstab.read(overview)
        kinds = crosstab.kinds(variants)
        has_student = bool(overview.serving.students)
        context = self.admin_site.each_context(request) | {
            "title": "Prompt variants by tags",
            "opts": self.opts,
            "kinds": kinds,
            "may_add": self.has_add_permission(request),
            "place": reverse("admin:generation_promptvariant_changelist"),
            "add": reverse("admin:generation_promptvariant_add"),
            "limit": f"{quality.limit():.0%}",
            "has_student": has_student,
        }
        if kinds:
            asked = request.GET
            choice = crosstab.choose(
                kinds,
                rows=asked.get("rows", ""),
                columns=asked.get("columns", ""),
                wanted=asked.getlist("tag"),
            )
            context |= {
                "choice": choice,
                "cut": [kind for kind in (choice.rows, choice.columns) if kind.shown != kind.tags],
                "columns": [*choice.columns.shown, ALL],
                "table": [
                    (row, [_shown(cell, has_student=has_student) for cell in cells])
                    for row, cells in crosstab.table(variants, kinds, choice)
                ],
            }
        return TemplateResponse(request, "generation/admin/variant_crosstab.html", context)


def _shown(cell: Cell, *, has_student: bool) -> dict[str, Any]:
    """Return a cell's counts, its coverage, and links to its variants and to the form of a new one."""
    tags = ",".join(cell.tags)
    listed = {"status__exact": "active"} | ({"tag": tags} if tags else {})
    is_covered = cell.covered == cell.count
    coverage = f"{cell.covered:,} covered" if cell.covered else "not covered"
    css = "weak" if cell.weak else "covered" if is_covered else "waiting"
    return {
        "count": f"{cell.count:,}" if cell.count else "",
        "is_covered": is_covered,
        "coverage": ("covered" if is_covered else coverage) if has_student else "",
        "weak": f"{cell.weak:,} weak" if cell.weak else "",
        "css": css if has_student or cell.weak else "",
        "is_possible": cell.is_possible,
        "words": ", ".join(cell.tags) or "all",
        "list_query": f"?{urlencode(listed)}",
        "add_query": f"?{urlencode({'tags': tags})}",
    }
