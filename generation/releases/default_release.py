"""Release that serves a request without a model, for many prompt variants. `jobs.routing` decides for a request.

Canaries are left out: they serve a share of the requests.
"""

from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.db.models import BooleanField, Case, CharField, F, Q, QuerySet, Value, When

from generation.models import PromptVariant, Release
from generation.releases import coverage, quality
from generation.releases import lifecycle as releases

Kind = Release.Kind


@dataclass(frozen=True)
class Serving:
    """The active releases. student: None if only a teacher is active."""

    student: Release | None
    teacher: Release | None

    @classmethod
    def now(cls) -> "Serving":
        active = {release.kind: release for release in releases.serving()}
        return cls(active.get(Kind.STUDENT), active.get(Kind.TEACHER))

    def annotated(self, variants: QuerySet[PromptVariant]) -> QuerySet[Any, Any]:
        """Annotate `is_covered`, whether the student was made for the variant's present text, `by_teacher`, the shares
        of right pictures `student_share` and `teacher_share`, and `served_by`: a kind, or "" if requests are refused.
        """
        return variants.annotate(
            is_covered=_serves(self.student),
            by_teacher=_serves(self.teacher),
            student_share=quality.share_of(self.student),
            teacher_share=quality.share_of(self.teacher),
        ).annotate(
            served_by=Case(*self._cases(), default=Value(""), output_field=CharField()),
        )

    def _cases(self) -> list[When]:
        """Return the rules of `jobs.routing`, in their order."""
        first = self.student or self.teacher
        if first is None:
            return []
        if settings.UNCOVERED == "student":
            return [When(~Q(pk__in=[]), then=Value(first.kind))]
        weak = Q(is_covered=True, by_teacher=True, student_share__lt=settings.QUALITY_FLOOR)
        better = Q(teacher_share=None) | Q(teacher_share__gt=F("student_share"))
        by_student = When(is_covered=True, then=Value(Kind.STUDENT))
        if settings.UNCOVERED == "refuse" and self.student:
            return [by_student]
        return [
            When(weak & better, then=Value(Kind.TEACHER)),
            by_student,
            When(by_teacher=True, then=Value(Kind.TEACHER)),
        ]

    def release(self, variant: Any) -> Release | None:
        """Return the release that serves an annotated variant; None: requests for it are refused."""
        return {Kind.STUDENT: self.student, Kind.TEACHER: self.teacher}.get(variant.served_by)

    def share(self, variant: Any) -> float | None:
        """Return the share of right pictures of the release that serves an annotated variant."""
        shares = {Kind.STUDENT: variant.student_share, Kind.TEACHER: variant.teacher_share}
        return shares.get(variant.served_by)

    def reason(self, variant: Any) -> str:
        """Return why this release serves an annotated variant."""
        if self.student is None and self.teacher is None:
            return "No release is active."
        if variant.served_by == Kind.STUDENT and not variant.is_covered:
            return f"UNCOVERED=student, though {self.student} was not made for it."
        if variant.served_by == Kind.STUDENT:
            return "It was made for this text."
        if self.student is None:
            return "No student is active."
        if variant.served_by == Kind.TEACHER and variant.is_covered:
            other = variant.teacher_share
            known = "" if other is None else f", {self.teacher} in {other:.0%}"
            return f"{self.student} is right in {variant.student_share:.0%} of its pictures{known}."
        missing = f"{self.student} was not made for this text."
        return missing if variant.served_by else f"Refused: {missing}"


def _serves(release: Release | None) -> Case:
    found = Q(pk__in=[]) if release is None else coverage.condition(release)
    return Case(When(found, then=Value(True)), default=Value(False), output_field=BooleanField())
