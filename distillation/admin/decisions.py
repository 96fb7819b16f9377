"""Admin of decisions whether to start a run."""

from django.contrib import admin
from unfold.admin import ModelAdmin
from unfold.decorators import display

from distillation.models import Decision
from generation.admin import pictures
from generation.admin.actions import ReadOnlyMixin


@admin.register(Decision)
class DecisionAdmin(ReadOnlyMixin, ModelAdmin):
    list_display = ("created", "verdict", "why", "run")
    list_filter = ("is_start",)
    list_select_related = ("run",)

    created = pictures.when_column("created_at", "decided at")

    @display(description="decision", ordering="is_start")
    def verdict(self, decision: Decision) -> str:
        return pictures.badge("started" if decision.is_start else "not started")

    @display(description="reason")
    def why(self, decision: Decision) -> str:
        return str(decision)
