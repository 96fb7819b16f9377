"""Admin of releases with facts of distillation: run, lineage, evaluation.

Replaces the page of `generation`, which has no access to runs.
"""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from distillation.admin import evaluations
from distillation.models import Run
from generation.admin import pictures
from generation.admin.releases import ReleaseAdmin
from generation.models import Release

SHOWN = 6  # releases before and after this one
admin.site.unregister(Release)


@admin.register(Release)
class ReleaseWithLineageAdmin(ReleaseAdmin):
    change_form_outer_before_template = "distillation/admin/release.html"

    def panel(self, request: HttpRequest, obj: Any) -> dict[str, Any]:
        run = evaluations.run_of(obj)
        parent = obj.manifest.get("parent")
        covered = obj.coverage.count()
        trained_on = Run.objects.filter(begins_with=obj, release__isnull=False)
        made_of = Release.objects.filter(manifest__parent=obj.name) if obj.kind == "teacher" else ()
        return {
            "release": obj,
            "run": run,
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
    """Return the chain of releases that replaced it; several if one was rolled back."""
    return list(Release.objects.filter(replaced=release).order_by("activated_at", "pk")[:SHOWN])


def _link(row: Release, shown: Release) -> dict[str, Any]:
    return {"row": row, "badge": pictures.badge(row.status), "is_this": row.pk == shown.pk}
