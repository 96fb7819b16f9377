"""Admin of the audit log, read-only, and the recording of changes that are made in the admin's forms."""

import json
from collections.abc import Iterable
from typing import Any

from django.contrib import admin
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.text import Truncator
from unfold.admin import ModelAdmin
from unfold.contrib.filters.admin import (
    AllValuesCheckboxFilter,
    RangeDateTimeFilter,
)
from unfold.decorators import display

from generation.access import audit
from generation.admin import pictures
from generation.admin.actions import ReadOnlyMixin
from generation.models import AuditEntry

MAX_CHARACTERS = (
    300  # of the detail in the list: a change of the whole catalogue names all its variants
)


class AuditedDeletionsMixin:
    """Mixin of ModelAdmin that calls `record_deletion` for each object before it is deleted, on a page or in a list."""

    def record_deletion(self, obj: Any) -> None:
        """Record the deletion in the audit log."""
        raise NotImplementedError

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        self.record_deletion(obj)
        super().delete_model(request, obj)  # type: ignore[misc]

    @transaction.atomic
    def delete_queryset(self, request: HttpRequest, queryset: QuerySet) -> None:
        for obj in queryset:
            self.record_deletion(obj)
        super().delete_queryset(request, queryset)  # type: ignore[misc]


class AuditedFormMixin(AuditedDeletionsMixin):
    """Mixin of ModelAdmin that records what is added, changed or deleted.

    noun: begins the names of the actions. secret: fields of its form that are not recorded.
    """

    noun: str
    secret: tuple[str, ...] = ()

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        super().save_related(request, form, formsets, change)  # type: ignore[misc]
        pairs = {
            field: [_plain(form.initial.get(field)), _plain(form.cleaned_data[field])]
            for field in form.changed_data
            if field not in self.secret
        }
        changed = {field: pair for field, pair in pairs.items() if pair[0] != pair[1]}
        if not change:
            facts = {field: after for field, (_, after) in changed.items()}
            audit.record(f"{self.noun}_added", form.instance, **facts)
        elif changed:
            audit.record(f"{self.noun}_edited", form.instance, **changed)

    def record_deletion(self, obj: Any) -> None:
        audit.record(f"{self.noun}_deleted", obj)


def _plain(value: Any) -> bool | int | str:
    """Return a field's value as a JSON value, "" for none; rows are named in order."""
    if isinstance(value, bool | int | str):
        return value
    if isinstance(value, Iterable):
        return ", ".join(sorted(map(str, value)))
    return "" if value is None else str(value)


@admin.register(AuditEntry)
class AuditEntryAdmin(ReadOnlyMixin, ModelAdmin):
    list_display = ("when", "who", "what", "subject", "facts")
    list_filter = (
        ("action", AllValuesCheckboxFilter),
        ("via", AllValuesCheckboxFilter),
        ("at", RangeDateTimeFilter),
    )
    list_filter_submit = True
    search_fields = ("actor", "action", "subject")
    fields = ("at", ("actor", "via"), ("action", "subject"), "detail")

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    when = pictures.when_column("at", "at")

    @display(description="by", ordering="actor")
    def who(self, entry: AuditEntry) -> str:
        return pictures.wording(entry.actor or "Retort", entry.via)

    @display(description="action", ordering="action")
    def what(self, entry: AuditEntry) -> str:
        return entry.action.replace("_", " ")

    @display(description="detail")
    def facts(self, entry: AuditEntry) -> str:
        # An edit lists each value before and after.
        between = " → " if entry.action.endswith("_edited") else ", "
        facts = (f"{name}: {_text(value, between)}" for name, value in entry.detail.items())
        return Truncator("; ".join(facts)).chars(MAX_CHARACTERS) or "–"


def _text(value: object, between: str) -> str:
    if isinstance(value, list):
        return between.join(_text(part, between) for part in value)
    return value if isinstance(value, str) else json.dumps(value)
