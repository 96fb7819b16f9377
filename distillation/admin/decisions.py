"""Admin of decisions whether to start a run: the reasons, and the facts they were derived from."""

from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.shortcuts import redirect
from django.urls import path
from django.utils.html import format_html, format_html_join
from unfold.admin import ModelAdmin
from unfold.decorators import display

from distillation.models import Decision
from distillation.runs import policy
from generation.admin import pictures
from generation.admin.actions import ReadOnlyMixin

MAY_DECIDE = "distillation.add_run"


@admin.register(Decision)
class DecisionAdmin(ReadOnlyMixin, ModelAdmin):
    when_empty = "The task consider-redistillation decides at night; Decide now decides at once."
    list_before_template = "distillation/admin/decide.html"
    list_display = ("created", "verdict", "why", "run")
    list_filter = ("is_start",)
    list_select_related = ("run",)
    fields = ("verdict", "why", "run", "created", "found")
    readonly_fields = ("verdict", "why", "created", "found")

    # --- deciding
    def get_urls(self) -> list:
        view = self.admin_site.admin_view(self.decide_view)
        return [path("decide/", view, name="distillation_decision_decide"), *super().get_urls()]

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> Any:
        context = {"may_decide": request.user.has_perm(MAY_DECIDE)}
        return super().changelist_view(request, context | (extra_context or {}))

    def decide_view(self, request: HttpRequest) -> HttpResponse:
        """Decide now whether to start a run, by the same rules as the schedule."""
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        if not (self.has_view_permission(request) and request.user.has_perm(MAY_DECIDE)):
            raise PermissionDenied
        decision = policy.consider(created_by=request.user)
        said = self.why(decision)
        if decision.run is None:
            messages.warning(request, f"No run was started. {said}")
        else:
            messages.success(request, f"The run {decision.run.name} was started. {said}")
        return redirect("admin:distillation_decision_change", decision.pk)

    # --- columns
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
