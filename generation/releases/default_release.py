"""Which release serves requests without a model, for many prompt variants. `jobs.routing` decides for one request.

Canaries, which serve a share of the requests, are not considered.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.db.models import (
    BigIntegerField,
    BooleanField,
    Case,
    CharField,
    F,
    FloatField,
    OuterRef,
    Q,
    QuerySet,
    Subquery,
    Value,
    When,
)
from django.db.models.functions import Coalesce

from generation.models import PromptVariant, Release
from generation.releases import coverage, quality
from generation.releases import lifecycle as releases
from generation.releases.quality import Judged

Kind, Status = Release.Kind, Release.Status


@dataclass(frozen=True)
class Serving:
    """The releases in service. student: the active one, None if only a teacher is active."""

    student: Release | None
    teacher: Release | None
    specialists: tuple[Release, ...] = ()

    @classmethod
    def now(cls) -> "Serving":
        served = releases.in_service()
        active = {row.kind: row for row in served if row.status == Status.ACTIVE}
        beside = tuple(row for row in served if row.status == Status.SPECIALIST)
        return cls(active.get(Kind.STUDENT), active.get(Kind.TEACHER), beside)

    @property
    def students(self) -> tuple[Release, ...]:
        """Return the active student and the specialists."""
        return (*([] if self.student is None else [self.student]), *self.specialists)

    @property
    def all(self) -> tuple[Release, ...]:
        return (*self.students, *([] if self.teacher is None else [self.teacher]))

    def annotated(self, variants: QuerySet[PromptVariant]) -> QuerySet[Any, Any]:
        """Annotate the variants.

        is_covered: whether a student was made for the current text; by_teacher; best_student: pk of the best student;
        student_share, teacher_share: shares of right pictures; floor: `quality.floor` of the best student; served_by: a
        kind, or "" if requests are refused.
        """
        return variants.annotate(
            **self._of_students(),
            by_teacher=_serves(self.teacher),
            teacher_share=quality.share_of(self.teacher),
            floor=self._floor(),
        ).annotate(
            served_by=Case(*self._cases(), default=Value(""), output_field=CharField()),
        )

    def _of_students(self) -> dict[str, Any]:
        if not self.specialists:
            return {
                "is_covered": _serves(self.student),
                "best_student": Value(
                    None if self.student is None else self.student.pk, BigIntegerField()
                ),
                "student_share": quality.share_of(self.student),
            }
        main = Q(pk=None if self.student is None else self.student.pk)
        unknown = Case(
            When(main, then=Value(quality.MAIN_UNKNOWN)), default=Value(quality.OTHER_UNKNOWN)
        )
        text = OuterRef(OuterRef("normalized_text"))
        best = (  # `quality.best_first`
            coverage.covering(self.students)
            .annotate(
                share=quality.share_of(OuterRef("pk"), text),
                place=Coalesce(Value(1.0) - F("share"), unknown, output_field=FloatField()),
                is_beside=Case(When(main, then=Value(0)), default=Value(1)),
            )
            .order_by("place", "is_beside", "pk")
        )
        return {
            "best_student": Subquery(best.values("pk")[:1], output_field=BigIntegerField()),
            "is_covered": Case(
                When(Q(best_student__isnull=False), then=Value(True)),
                default=Value(False),
                output_field=BooleanField(),
            ),
            "student_share": Subquery(best.values("share")[:1], output_field=FloatField()),
        }

    def _floor(self) -> Coalesce:
        own = [
            When(best_student=row.pk, then=Value(row.quality_floor))
            for row in self.students
            if row.quality_floor is not None
        ]
        of_release = [Case(*own, default=None, output_field=FloatField())] if own else []
        return Coalesce(
            F("quality_floor"),
            *of_release,
            Value(settings.QUALITY_FLOOR),
            output_field=FloatField(),
        )

    def _cases(self) -> list[When]:
        """Return the rules of `jobs.routing`, in their order."""
        if not self.all:
            return []
        by_student = When(is_covered=True, then=Value(Kind.STUDENT))
        if settings.UNCOVERED == "student":
            first = self.student or self.teacher
            return [by_student, *([When(~Q(pk__in=[]), then=Value(first.kind))] if first else [])]
        weak = Q(is_covered=True, by_teacher=True, student_share__lt=F("floor"))
        better = Q(teacher_share=None) | Q(teacher_share__gt=F("student_share"))
        if settings.UNCOVERED == "refuse" and self.student:
            return [by_student]
        return [
            When(weak & better, then=Value(Kind.TEACHER)),
            by_student,
            When(by_teacher=True, then=Value(Kind.TEACHER)),
        ]

    def serves(self, release: Release) -> Q:
        """Return the condition for annotated variants that this release serves."""
        if release.kind == Kind.TEACHER:
            return Q(served_by=Kind.TEACHER)
        is_best = Q(best_student=release.pk)
        if release == self.student:
            is_best |= Q(best_student=None)  # by UNCOVERED=student
        return Q(served_by=Kind.STUDENT) & is_best

    def student_of(self, variant: Any) -> Release | None:
        """Return the best student for an annotated variant, or the active one if none covers it."""
        found = (one for one in self.specialists if one.pk == variant.best_student)
        return next(found, self.student)

    def release(self, variant: Any) -> Release | None:
        """Return the release that serves an annotated variant, None if requests for it are refused."""
        found = {Kind.STUDENT: self.student_of(variant), Kind.TEACHER: self.teacher}
        return found.get(variant.served_by)

    def share(self, variant: Any) -> float | None:
        """Return the share of right pictures by the release that serves an annotated variant."""
        shares = {Kind.STUDENT: variant.student_share, Kind.TEACHER: variant.teacher_share}
        return shares.get(variant.served_by)

    def judged(self, variants: Iterable[Any]) -> dict[str, Judged]:
        """Return the judged pictures by normalised text, each of the release that serves the annotated variant."""
        texts: dict[Release | None, list[str]] = defaultdict(list)
        for row in variants:
            texts[self.release(row)].append(row.normalized_text)
        found: dict[str, Judged] = {}
        for release, its_texts in texts.items():
            if release is not None:
                found |= quality.of(release, its_texts)
        return found

    def reason(self, variant: Any) -> str:
        """Return why this release serves an annotated variant."""
        if not self.all:
            return "No release is active."
        student = self.student_of(variant)
        if variant.served_by == Kind.STUDENT and not variant.is_covered:
            return f"UNCOVERED=student, although {student} was not made for this text."
        if variant.served_by == Kind.STUDENT:
            return (
                "It was made for this text."
                if student == self.student
                else "It is the specialist that makes this text best."
            )
        if student is None:
            return "No student is active."
        if variant.served_by == Kind.TEACHER and variant.is_covered:
            other = variant.teacher_share
            known = "" if other is None else f", {other:.0%} by {self.teacher}"
            return f"{variant.student_share:.0%} of the pictures by {student} are right{known}."
        missing = f"{student} was not made for this text."
        return missing if variant.served_by else f"Refused: {missing}"


def hard() -> Q:
    """Return the condition for annotated variants that students cover, but none makes well."""
    return Q(is_covered=True) & below_limit("student_share")


def below_limit(share: str) -> Q:
    """Return the condition for annotated variants whose share is below `quality.limit`. share: an annotation."""
    below = f"{share}__lt"
    return Q(**{below: F("floor")}) | Q(**{"floor": 0.0, below: quality.WEAK})


def _serves(release: Release | None) -> Case:
    found = Q(pk__in=[]) if release is None else coverage.condition(release)
    return Case(When(found, then=Value(True)), default=Value(False), output_field=BooleanField())
