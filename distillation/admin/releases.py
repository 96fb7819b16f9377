"""Admin of releases with facts of distillation: run, lineage, evaluation.

Replaces the page of `generation`, which has no access to runs.
"""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect
from django.template.loader import render_to_string
from unfold.decorators import action

from distillation.admin import evaluations
from distillation.admin.comparison import ComparisonMixin
from distillation.models import Run
from distillation.runs import approval, canary
from generation.admin import pictures
from generation.admin.releases import ReleaseAdmin
from generation.models import Release
from generation.releases import lifecycle as releases

SHOWN = 6  # releases before and after this one
admin.site.unregister(Release)


@admin.register(Release)
class ReleaseWithLineageAdmin(ComparisonMixin, ReleaseAdmin):
    change_form_outer_before_template = "distillation/admin/release.html"
    actions_list = ("side_by_side",)

    @action(
        description="Compare two", url_path="side-by-side", icon="compare", permissions=["view"]
    )
    def side_by_side(self, request: HttpRequest) -> HttpResponse:
        return redirect("admin:generation_release_compare")

    def get_urls(self) -> list:
        route, name = "<int:release_id>/canary-now/", "generation_release_canary_now"
        return [self.page(route, self.canary_now_view, name), *super().get_urls()]

    def canary_now_view(self, request: HttpRequest, release_id: int) -> HttpResponse:
        """Return the figures of a canary that its page polls."""
        release = get_object_or_404(Release, pk=release_id)
        found = canary.standing(release)
        context = {"release": release, "standing": found}
        html = render_to_string("distillation/admin/canary.html", context) if found else ""
        return JsonResponse({"html": html, "is_over": found is None})

    def panel(self, request: HttpRequest, obj: Any) -> dict[str, Any]:
        run = evaluations.run_of(obj)
        parent = obj.manifest.get("parent")
        covered = obj.coverage.count()
        trained_on = Run.objects.filter(begins_with=obj, release__isnull=False)
        made_of = Release.objects.filter(manifest__parent=obj.name) if obj.kind == "teacher" else ()
        return {
            "release": obj,
            "standing": canary.standing(obj),
            "compared": _compared(obj),
            "run": run,
            "waits": run is not None and approval.waiting().filter(pk=run.pk).exists(),
            "parent_name": parent,
            "parent": Release.objects.filter(name=parent).first() if parent else None,
            "begins_with": run.begins_with if run else None,
            "covered": covered,
            "chain": [_link(row, obj) for row in (*_before(obj), obj, *_after(obj))],
            "trained_on": [row.release for row in trained_on.select_related("release")[:SHOWN]],
            "made_of": list(made_of[:SHOWN]),
            "measured": evaluations.of(obj) is not None,
            "verdict": evaluations.verdict(obj, run),
            "right": evaluations.share_right(obj),
            "failed": [c for c in (run.checks if run else []) if not c["passed"]],
        }


def _compared(release: Release) -> Release | None:
    """Return the release to compare with: the active one of the kind; for that one, the release it replaced."""
    active = releases.active(release.kind)
    return release.replaced if active == release else active


def _before(release: Release) -> list[Release]:
    """Return the chain of replaced releases, oldest first."""
    found: list[Release] = []
    seen = {release.pk}
    row = release.replaced
    while row is not None and row.pk not in seen and len(found) < SHOWN:
        found.insert(0, row)
        seen.add(row.pk)
        row = row.replaced
    return found


def _after(release: Release) -> list[Release]:
    """Return the releases that replaced this one; several if one was rolled back."""
    return list(Release.objects.filter(replaced=release).order_by("activated_at", "pk")[:SHOWN])


def _link(row: Release, shown: Release) -> dict[str, Any]:
    return {"row": row, "badge": pictures.badge(row.status), "is_this": row.pk == shown.pk}
