"""Standing of active prompt variants: covered by a student, waiting for a run or failing; also weak or hard."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from django.db.models import Count, Exists, OuterRef, Q, QuerySet, TextChoices

from generation.catalogue import variants as catalogue
from generation.catalogue.unknown_words import Vocabulary
from generation.catalogue.variants import EmbeddingState
from generation.models import Coverage, PromptVariant
from generation.releases import default_release
from generation.releases.default_release import Serving


class Standing(TextChoices):
    """Filter of the list of prompt variants. Each active variant has exactly one of the first three."""

    COVERED = "covered", "covered by a student"
    WAITING = "waiting", "not covered"
    FAILING = "failing", "failing: not encoded, or served by no release"
    WEAK = "weak", "weak"
    HARD = "hard", "hard: no student makes them well"


_ACTIVE = Q(status=PromptVariant.Status.ACTIVE)
_FAILING = Q(embedding_state=EmbeddingState.FAILED) | Q(served_by="")


@dataclass(frozen=True)
class Overview:
    """Active releases and counts of the catalogue, each read at most once. Create one per page."""

    serving: Serving

    @classmethod
    def now(cls) -> "Overview":
        return cls(Serving.now())

    def annotated(self, variants: QuerySet[PromptVariant]) -> QuerySet[Any, Any]:
        """Annotate the variants for `condition`, `Serving` and the admin's list."""
        student = self.serving.student
        older = Coverage.objects.filter(slug=OuterRef("slug"), release=student)
        rows = self.serving.annotated(catalogue.with_states(variants))
        return rows.annotate(had_other_text=Exists(older) if student else Exists(older.none()))

    def condition(self, standing: str) -> Q:
        """Return the query condition for annotated variants with this standing."""
        weak = Q(served_by="student") & default_release.below_limit("student_share")
        weak |= Q(served_by="teacher") & default_release.below_limit("teacher_share")
        return {
            Standing.COVERED: _ACTIVE & Q(is_covered=True) & ~_FAILING,
            Standing.WAITING: _ACTIVE & Q(is_covered=False) & ~_FAILING,
            Standing.FAILING: _ACTIVE & _FAILING,
            Standing.WEAK: _ACTIVE & weak,
            Standing.HARD: _ACTIVE & default_release.hard(),
        }[Standing(standing)]

    @cached_property
    def counts(self) -> Mapping[str, int]:
        """Return the number of variants by standing; "" for all active ones."""
        active = self.annotated(PromptVariant.objects.filter(_ACTIVE).order_by())
        found = active.aggregate(
            all=Count("pk"),
            **{one.name: Count("pk", filter=self.condition(one)) for one in Standing},
        )
        return {"": found["all"]} | {one.value: found[one.name] for one in Standing}

    @cached_property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary()

    @cached_property
    def with_unknown_words(self) -> list[int]:
        """Return the ids of non-archived variants with words that are unknown to an encoder."""
        texts = PromptVariant.objects.exclude(status=PromptVariant.Status.ARCHIVED)
        rows = texts.order_by().values_list("pk", "text")
        return [pk for pk, text in rows if self.vocabulary.unknown(text)]

    def reason(self, variant: Any) -> str:
        """Return why the variant's release serves it, or why none does."""
        if variant.had_other_text and not variant.is_covered and self.serving.student:
            return f"Its text changed after {self.serving.student} was made."
        return self.serving.reason(variant)
