"""List filters of examples. Verdicts are those of the active detector version."""

from typing import Any

from django.db.models import Exists, OuterRef, QuerySet
from django.http import HttpRequest
from unfold.contrib.filters.admin import DropdownFilter

from distillation.examples import lifecycle as examples
from distillation.models import Example, Verdict
from generation.models import PromptVariant


def verdicts(**fields: Any) -> Exists:
    """Return a condition: the active detector gave such a verdict on the example."""
    return Exists(
        Verdict.objects.filter(
            example=OuterRef("pk"), detector=examples.active_detector(), **fields
        )
    )


class StandingFilter(DropdownFilter):
    title = "usable"
    parameter_name = "standing"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("accepted", "accepted, by people or the detector"), ("not", "not accepted")]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        used = examples.accepted().values("pk")
        if self.value() == "accepted":
            return queryset.filter(pk__in=used)
        return queryset.exclude(pk__in=used) if self.value() else queryset


class VerdictFilter(DropdownFilter):
    title = "verdict"
    parameter_name = "verdict"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("accepted", "accepted"), ("rejected", "rejected"), ("none", "not judged")]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        if self.value() == "none":
            return queryset.filter(~verdicts(), refusal="")
        if self.value():
            return queryset.filter(verdicts(is_accepted=self.value() == "accepted"))
        return queryset


class FailingBitFilter(DropdownFilter):
    title = "failing bit"
    parameter_name = "bit"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        detector = examples.active_detector()
        return [(bit, bit) for bit in detector.bits] if detector else []

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        if not self.value():
            return queryset
        return queryset.filter(verdicts(failing__contains=[self.value()]))


class VariantFilter(DropdownFilter):
    title = "prompt variant"
    parameter_name = "variant"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        shown = PromptVariant.objects.filter(image_sources__isnull=False).distinct()
        return [(slug, slug) for slug in shown.order_by("slug").values_list("slug", flat=True)]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        return queryset.filter(source__variants__slug=self.value()) if self.value() else queryset


class RefusalFilter(DropdownFilter):
    title = "refusal"
    parameter_name = "refusal"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        codes = Example.objects.exclude(refusal="").order_by("refusal")
        found = [(code, code) for code in codes.values_list("refusal", flat=True).distinct()]
        return [("none", "images only"), ("any", "refused files only"), *found]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        if self.value() == "none":
            return queryset.filter(refusal="")
        if self.value() == "any":
            return queryset.exclude(refusal="")
        return queryset.filter(refusal=self.value()) if self.value() else queryset


class OverrideFilter(DropdownFilter):
    title = "decided by people"
    parameter_name = "override"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [
            ("accepted", "accepted"),
            ("rejected", "rejected"),
            ("any", "either"),
            ("none", "not decided"),
            ("against", "against the detector"),
        ]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        value = self.value()
        if value == "none":
            return queryset.filter(override=Example.Override.NONE)
        if value == "any":
            return queryset.exclude(override=Example.Override.NONE)
        if value == "against":
            against = queryset.filter(verdicts(is_accepted=False), override="accepted")
            return against | queryset.filter(verdicts(is_accepted=True), override="rejected")
        return queryset.filter(override=value) if value else queryset
