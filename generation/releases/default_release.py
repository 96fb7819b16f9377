"""Release that serves a request without a model, for many prompt variants. `jobs.routing` decides for a request.

Canaries are left out: they serve a share of the requests.
"""

from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.db.models import BooleanField, Case, Q, QuerySet, Value, When

from generation.models import PromptVariant, Release
from generation.releases import coverage
from generation.releases import lifecycle as releases


@dataclass(frozen=True)
class Serving:
    """The active releases. student: None if only a teacher is active."""

    student: Release | None
    teacher: Release | None

    @classmethod
    def now(cls) -> "Serving":
        active = {release.kind: release for release in releases.serving()}
        return cls(active.get(Release.Kind.STUDENT), active.get(Release.Kind.TEACHER))

    def annotated(self, variants: QuerySet[PromptVariant]) -> QuerySet[Any, Any]:
        """Annotate `is_covered`, whether the student was made for the variant's present text, and `by_teacher`."""
        return variants.annotate(is_covered=_serves(self.student), by_teacher=_serves(self.teacher))

    def release(self, variant: Any) -> Release | None:
        """Return the release that serves an annotated variant; None: requests for it are refused."""
        first = self.student or self.teacher
        if settings.UNCOVERED == "student":
            return first
        if self.student and variant.is_covered:
            return self.student
        if settings.UNCOVERED == "refuse" and self.student:
            return None
        return self.teacher if variant.by_teacher else None


def _serves(release: Release | None) -> Case:
    found = Q(pk__in=[]) if release is None else coverage.condition(release)
    return Case(When(found, then=Value(True)), default=Value(False), output_field=BooleanField())
