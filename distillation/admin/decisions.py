"""Admin of decisions whether to start a run: the reasons, and the facts they were derived from."""

from typing import Any

from django.contrib import admin
from django.utils.html import format_html, format_html_join
from unfold.admin import ModelAdmin
from unfold.decorators import display

from distillation.models import Decision
from generation.admin import pictures
from generation.admin.actions import ReadOnlyMixin


@admin.register(Decision)
class DecisionAdmin(ReadOnlyMixin, ModelAdmin):
    when_empty = (
        "The task consider-redistillation decides at night; run it on the page Periodic tasks to "
        "decide at once."
    )
    list_display = ("created", "verdict", "why", "run")
    list_filter = ("is_start",)
    list_select_related = ("run",)
    fields = ("verdict", "why", "run", "created", "found")
    readonly_fields = ("verdict", "why", "created", "found")

    created = pictures.when_column("created_at", "decided at")

    @display(description="decision", ordering="is_start")
    def verdict(self, decision: Decision) -> str:
        return pictures.badge("started" if decision.is_start else "not started")

    @display(description="reason")
    def why(self, decision: Decision) -> str:
        return " ".join(decision.reasons)

    @display(description="facts")
    def found(self, decision: Decision) -> Any:
        rows = ((name.replace("_", " "), _text(value)) for name, value in decision.facts.items())
        return format_html(
            '<dl class="rt-facts">{}</dl>',
            format_html_join("", "<dt>{}</dt><dd>{}</dd>", rows),
        )


def _text(value: object) -> str:
    """Return a fact as text: a list, a number or a name."""
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, float):
        return f"{value:,.1f}"
    return "none" if value is None else str(value)
