"""List filters of examples. Verdicts are those of the active detector version."""

from typing import Any

from django.db.models import Exists, OuterRef, QuerySet
from django.http import HttpRequest
from unfold.contrib.filters.admin import DropdownFilter

from distillation.examples import lifecycle as examples
from distillation.models import Example, Verdict
from generation.models import PromptVariant


def verdicts(**fields: Any) -> Exists:
    """Return a condition: the active detector's verdict on the example has these field values."""
    return Exists(
        Verdict.objects.filter(
            example=OuterRef("pk"), detector=examples.active_detector(), **fields
        )
    )


class Filter(DropdownFilter):
    """List filter whose `options` are (value, label) pairs."""

    options: tuple[tuple[str, str], ...] = ()

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return list(self.options)

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        return self.chosen(queryset, self.value()) if self.value() else queryset

    def chosen(self, rows: QuerySet, value: str) -> QuerySet:
        """Return the rows that match the chosen value."""
        raise NotImplementedError


class StandingFilter(Filter):
    title = "usable"
    parameter_name = "standing"
    options = (("accepted", "accepted, by people or the detector"), ("not", "not accepted"))

    def chosen(self, rows: QuerySet, value: str) -> QuerySet:
        used = examples.accepted().values("pk")
        return rows.filter(pk__in=used) if value == "accepted" else rows.exclude(pk__in=used)


class VerdictFilter(Filter):
    title = "verdict"
    parameter_name = "verdict"
    options = (("accepted", "accepted"), ("rejected", "rejected"), ("none", "not judged"))

    def chosen(self, rows: QuerySet, value: str) -> QuerySet:
        if value == "none":
            return rows.filter(~verdicts(), refusal="")
        return rows.filter(verdicts(is_accepted=value == "accepted"))


class FailingBitFilter(Filter):
    title = "failing bit"
    parameter_name = "bit"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        detector = examples.active_detector()
        return [(bit, bit) for bit in detector.bits] if detector else []

    def chosen(self, rows: QuerySet, value: str) -> QuerySet:
        return rows.filter(verdicts(failing__contains=[value]))


class VariantFilter(Filter):
    title = "prompt variant"
    parameter_name = "variant"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        shown = PromptVariant.objects.filter(image_sources__isnull=False).distinct()
        return [(slug, slug) for slug in shown.order_by("slug").values_list("slug", flat=True)]

    def chosen(self, rows: QuerySet, value: str) -> QuerySet:
        return rows.filter(source__variants__slug=value)


class RefusalFilter(Filter):
    title = "refusal"
    parameter_name = "refusal"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        codes = Example.objects.exclude(refusal="").order_by("refusal")
        found = [(code, code) for code in codes.values_list("refusal", flat=True).distinct()]
        return [("none", "images only"), ("any", "refused files only"), *found]

    def chosen(self, rows: QuerySet, value: str) -> QuerySet:
        if value == "any":
            return rows.exclude(refusal="")
        return rows.filter(refusal="" if value == "none" else value)


class OverrideFilter(Filter):
    title = "decided by people"
    parameter_name = "override"
    options = (
        ("accepted", "accepted"),
        ("rejected", "rejected"),
        ("any", "either"),
        ("none", "not decided"),
        ("against", "against the detector"),
    )

    def chosen(self, rows: QuerySet, value: str) -> QuerySet:
        if value == "any":
            return rows.exclude(override=Example.Override.NONE)
        if value == "against":
            against = rows.filter(verdicts(is_accepted=False), override="accepted")
            return against | rows.filter(verdicts(is_accepted=True), override="rejected")
        return rows.filter(override="" if value == "none" else value)
