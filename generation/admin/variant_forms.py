"""Forms and list filters of the prompt catalogue's admin. The rules of a text are in `generation.catalogue`."""

from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.db import connection
from django.db.models import QuerySet
from django.http import HttpRequest
from import_export.forms import ConfirmImportForm
from unfold.contrib.filters.admin import DropdownFilter
from unfold.contrib.import_export.forms import ImportForm
from unfold.widgets import (
    UnfoldAdminExpandableTextareaWidget,
    UnfoldAdminTextInputWidget,
    UnfoldBooleanWidget,
)

from generation.catalogue import variants as catalogue
from generation.catalogue.unknown_words import Vocabulary
from generation.catalogue.variants import EmbeddingState
from generation.engine.texts import tidy
from generation.errors import PromptInvalid
from generation.models import PromptVariant


# --- forms ----------------------------------------------------------------------------------------
class VariantForm(forms.ModelForm):
    slug = forms.SlugField(
        max_length=120,
        required=False,
        widget=UnfoldAdminTextInputWidget,
        help_text="Name of the variant in requests. If empty, it is made from the text.",
    )
    text = forms.CharField(
        widget=UnfoldAdminExpandableTextareaWidget(attrs={"rows": 2}),
        help_text=f"1 to {catalogue.MAX_WORDS} words.",
    )
    tags = forms.CharField(
        required=False,
        widget=UnfoldAdminTextInputWidget,
        help_text="Separated by commas. Tags that the detector knows are checked in images; "
        "with the prefix not-, the image must not show them.",
    )
    new_revision = forms.BooleanField(
        required=False,
        label="Create a new revision",
        widget=UnfoldBooleanWidget,
        help_text="Required to change a text that has images: they keep the old text, "
        "and the new one is encoded.",
    )

    class Meta:
        model = PromptVariant
        fields = ("text", "slug", "tags", "status", "max_tries", "notes")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "tags" in self.fields:
            self.initial["tags"] = ", ".join(self.instance.tags)

    def clean_text(self) -> str:
        text = tidy(self.cleaned_data["text"])
        if text == self.instance.text:
            return text
        try:
            catalogue.validate_text(text, pk=self.instance.pk)
        except PromptInvalid as error:
            raise ValidationError(error.detail) from error
        return text

    def clean_tags(self) -> list[str]:
        try:
            return catalogue.tidy_tags(self.cleaned_data["tags"].split(","))
        except PromptInvalid as error:
            raise ValidationError(error.detail) from error

    def clean(self) -> dict[str, Any]:
        data = super().clean() or self.cleaned_data
        variant, text = self.instance, data.get("text")
        changed = variant.pk and text and "text" in self.changed_data
        if changed and not data.get("new_revision") and catalogue.has_images(variant):
            error = catalogue.text_is_locked(variant.slug)
            self.add_error("new_revision", ValidationError(error.detail))
        if not data.get("slug") and text:
            data["slug"] = variant.slug or catalogue.slug_for(text)
        return data


class VariantImportForm(ImportForm):
    new_revisions = forms.BooleanField(
        required=False,
        label="Create new revisions",
        widget=UnfoldBooleanWidget,
        help_text="Allow the file to change texts that have images.",
    )


class VariantConfirmImportForm(ConfirmImportForm):
    new_revisions = forms.BooleanField(required=False, widget=forms.HiddenInput)


# --- filters --------------------------------------------------------------------------------------
class TagFilter(DropdownFilter):
    title = "tag"
    parameter_name = "tag"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        table = connection.ops.quote_name(PromptVariant._meta.db_table)
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT DISTINCT unnest(tags) FROM {table} ORDER BY 1 LIMIT 500")
            return [(tag, tag) for (tag,) in cursor.fetchall()]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        return queryset.filter(tags__contains=[self.value()]) if self.value() else queryset


class EmbeddingFilter(DropdownFilter):
    title = "embedding"
    parameter_name = "embedding"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(state.value, state.value) for state in EmbeddingState]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        return queryset.filter(embedding_state=self.value()) if self.value() else queryset


class UnknownWordsFilter(DropdownFilter):
    title = "unknown words"
    parameter_name = "unknown"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("yes", "with words that the encoder does not know"), ("no", "without")]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        if self.value() not in ("yes", "no"):
            return queryset
        vocabulary = Vocabulary()
        texts = PromptVariant.objects.values_list("pk", "text").iterator()
        found = [pk for pk, text in texts if vocabulary.unknown(text)]
        return (
            queryset.filter(pk__in=found)
            if self.value() == "yes"
            else queryset.exclude(pk__in=found)
        )
