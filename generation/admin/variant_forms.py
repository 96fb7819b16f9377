"""Forms and list filters of the prompt catalogue's admin. The rules of a text are in `generation.catalogue`."""

import json
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from django import forms
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.db import connection
from django.db.models import QuerySet
from django.forms.widgets import Script
from django.http import HttpRequest
from django.urls import reverse_lazy
from django.utils.html import format_html
from django.utils.safestring import SafeString
from import_export.forms import ConfirmImportForm
from unfold.contrib.filters.admin import DropdownFilter
from unfold.contrib.import_export.forms import ImportForm
from unfold.widgets import (
    UnfoldAdminExpandableTextareaWidget,
    UnfoldAdminTextInputWidget,
    UnfoldBooleanWidget,
)

from generation.catalogue import editing, file_formats, objections, text_rules
from generation.catalogue import variants as catalogue
from generation.catalogue.standing import Overview, Standing
from generation.catalogue.variants import EmbeddingState
from generation.engine.prompts.texts import tidy
from generation.errors import PromptInvalid
from generation.models import AuditEntry, PromptVariant


@contextmanager
def form_errors() -> Iterator[None]:
    """Raise the catalogue's PromptInvalid as the ValidationError of a form."""
    try:
        yield
    except PromptInvalid as error:
        raise ValidationError(error.detail) from error


# --- tags -----------------------------------------------------------------------------------------
MAX_TAGS = 500  # suggestions


def known_tags() -> list[str]:
    """Return tags of the catalogue in alphabetical order, at most MAX_TAGS."""
    table = connection.ops.quote_name(PromptVariant._meta.db_table)
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT DISTINCT unnest(tags) FROM {table} ORDER BY 1 LIMIT {MAX_TAGS}")
        return [tag for (tag,) in cursor.fetchall()]


def near_tags(tags: Iterable[str]) -> list[str]:
    """Return a warning for each of these tags that looks like a typo of a more frequent one."""
    counts = {tag: PromptVariant.objects.filter(tags__contains=[tag]).count() for tag in tags}
    found = []
    for tag, count in counts.items():
        near = [other for other in known_tags() if other != tag and objections.is_typo(tag, other)]
        if near and PromptVariant.objects.filter(tags__contains=near[:1]).count() > count:
            found.append(f"The tag “{tag}” is new. Did you mean “{near[0]}”?")
    return found


class TagsWidget(UnfoldAdminTextInputWidget):
    """Comma-separated text, shown as chips by `tags.js`, with suggestions. bits: tags that the detector checks."""

    bits: Collection[str] = ()

    class Media:
        js = [Script("generation/tags.js", defer=True)]

    def get_context(self, name: str, value: Any, attrs: dict[str, Any] | None) -> dict[str, Any]:
        known = sorted({*known_tags(), *self.bits})
        data = {"data-tags": json.dumps(known), "data-bits": json.dumps(sorted(self.bits))}
        return super().get_context(name, value, (attrs or {}) | data)


class TagsField(forms.CharField):
    """Tags separated by commas."""

    def __init__(self, **options: Any) -> None:
        super().__init__(required=False, widget=TagsWidget, **options)

    def clean(self, value: Any) -> list[str]:
        with form_errors():
            return text_rules.tidy_tags(super().clean(value).split(","))


class TagsForm(forms.Form):
    """Tags to add to and to remove from several prompt variants."""

    add = TagsField(help_text="Separated by commas.")
    remove = TagsField(help_text="Separated by commas.")

    def __init__(self, *args: Any, bits: Collection[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for field in self.fields.values():
            field.widget.bits = bits

    def clean(self) -> dict[str, Any]:
        data = super().clean() or self.cleaned_data
        if not data.get("add") and not data.get("remove"):
            raise ValidationError("Give tags to add or to remove.")
        return data


# --- forms ----------------------------------------------------------------------------------------
class PromptTextWidget(UnfoldAdminExpandableTextareaWidget):
    """Text area of a prompt, with a warning about unknown words below it while the text is typed."""

    def __init__(self) -> None:
        super().__init__(
            attrs={
                "hx-get": reverse_lazy("admin:generation_promptvariant_unknown"),
                "hx-trigger": "input changed delay:300ms",
                "hx-target": "#unknown-words",
                "hx-sync": "this:replace",
            }
        )

    def render(self, *args: Any, **kwargs: Any) -> SafeString:
        said = '{}<p id="unknown-words" class="rt-error" aria-live="polite"></p>'
        return format_html(said, super().render(*args, **kwargs))


class VariantForm(forms.ModelForm):
    bits: Collection[str] = ()  # tags that the detector checks

    slug = forms.SlugField(
        max_length=120,
        required=False,
        widget=UnfoldAdminTextInputWidget,
        help_text="Name of the variant in requests. If empty, it is made from the text.",
    )
    text = forms.CharField(
        widget=PromptTextWidget,
        help_text=f"1 to {text_rules.MAX_WORDS} words.",
    )
    tags = TagsField(
        help_text="Separated by commas. The detector checks tags that it supports in images; "
        "with the prefix not-, the image must not show them.",
    )
    new_revision = forms.BooleanField(
        required=False,
        label="Create a new revision",
        widget=UnfoldBooleanWidget,
        help_text="Required to change a text that has images: they keep the old text, "
        "and the new one is encoded.",
    )
    # The time of the last change that the page showed.
    seen = forms.CharField(required=False, widget=forms.HiddenInput)

    class Meta:
        model = PromptVariant
        fields = ("text", "slug", "tags", "status", "max_tries", "quality_floor", "notes")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "tags" in self.fields:
            self.fields["tags"].widget.bits = self.bits
            tags = self.initial.get("tags", [])  # text if the URL of the form gives them
            self.initial["tags"] = tags if isinstance(tags, str) else ", ".join(tags)
        if self.instance.pk:
            self.initial["seen"] = self.instance.updated_at.isoformat()

    def clean_text(self) -> str:
        text = tidy(self.cleaned_data["text"])
        if text == self.instance.text:
            return text
        with form_errors():
            text_rules.validate_text(text, pk=self.instance.pk)
        return text

    def clean_notes(self) -> str:
        notes = self.cleaned_data["notes"]
        with form_errors():
            text_rules.check_notes(notes, self.initial.get("notes", ""))
        return notes

    def clean(self) -> dict[str, Any]:
        data = super().clean() or self.cleaned_data
        variant, text = self.instance, data.get("text")
        if variant.pk and data.get("seen") and data["seen"] != self.initial["seen"]:
            raise ValidationError(
                f"“{variant.slug}” was changed after this page was opened. Reload the page and make your change again."
            )
        changed = variant.pk and text and "text" in self.changed_data
        if changed and not data.get("new_revision") and catalogue.has_images(variant):
            error = catalogue.text_is_locked(variant.slug)
            self.add_error("new_revision", ValidationError(error.detail))
        if not data.get("slug") and text:
            data["slug"] = variant.slug or text_rules.slug_for(text)
        return data


class VariantImportForm(ImportForm):
    new_revisions = forms.BooleanField(
        required=False,
        label="Create new revisions",
        widget=UnfoldBooleanWidget,
        help_text="Allow the file to change texts that have images.",
    )

    def clean_import_file(self) -> Any:
        """Refuse a large file before it is stored for the import."""
        file = self.cleaned_data["import_file"]
        try:
            file_formats.check_bytes(file.size)
        except ValueError as error:
            raise ValidationError(str(error)) from error
        return file


class VariantConfirmImportForm(ConfirmImportForm):
    new_revisions = forms.BooleanField(required=False, widget=forms.HiddenInput)


# --- filters --------------------------------------------------------------------------------------
def overview_of(request: HttpRequest) -> Overview:
    """Return the overview of the catalogue, made once per request."""
    if not hasattr(request, "retort_overview"):
        request.retort_overview = Overview.now()  # type: ignore[attr-defined]
    return request.retort_overview  # type: ignore[attr-defined]


class TagFilter(DropdownFilter):
    """Filter by a tag or, in links, by several comma-separated tags, all of which a variant must have."""

    title = "tag"
    parameter_name = "tag"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        chosen = [self.value()] if self.value() else []
        choices = dict.fromkeys((*chosen, *known_tags()))
        return [(tags, " and ".join(tags.split(","))) for tags in choices]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        wanted = [tag for tag in (self.value() or "").split(",") if tag]
        return queryset.filter(tags__contains=wanted) if wanted else queryset


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
        count = len(overview_of(request).with_unknown_words)
        return [("yes", f"with words that the encoder does not know ({count})"), ("no", "without")]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        if self.value() not in ("yes", "no"):
            return queryset
        found = overview_of(request).with_unknown_words
        return (
            queryset.filter(pk__in=found)
            if self.value() == "yes"
            else queryset.exclude(pk__in=found)
        )


class StandingFilter(DropdownFilter):
    """Filter by standing, with counts."""

    title = "standing"
    parameter_name = "standing"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        counts = overview_of(request).counts
        return [(one.value, f"{one.label} ({counts[one.value]})") for one in Standing]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        if self.value() not in Standing.values:
            return queryset
        return queryset.filter(overview_of(request).condition(str(self.value())))


class ChangeFilter(admin.SimpleListFilter):
    """Filter by an audit entry: the variants that it changed. Reached by links only, without choices in the list."""

    title = "change"
    parameter_name = "change"
    template = "generation/admin/no_filter.html"

    def has_output(self) -> bool:
        return True

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return []

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        value = self.value() or ""
        if not value.isdecimal():
            return queryset
        entry = AuditEntry.objects.filter(pk=value).first()
        return queryset.none() if entry is None else queryset.filter(editing.touched(entry))
