"""Admin of webhooks: endpoints and their failures, deliveries with their attempts and payloads, sending by hand."""

import json
from datetime import datetime
from typing import Any

from django.contrib import admin, messages
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.defaultfilters import pluralize
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from unfold.admin import ModelAdmin
from unfold.contrib.filters.admin import (
    ChoicesDropdownFilter,
    DropdownFilter,
    RangeDateTimeFilter,
)
from unfold.decorators import action, display

from generation.admin import pictures
from generation.admin.actions import ObjectActionsMixin, ReadOnlyMixin
from generation.errors import GenerationError
from generation.models import Delivery, WebhookEndpoint
from generation.webhooks import endpoints as webhooks
from generation.webhooks import outbox, trial

SHOWN = 20  # deliveries on the page of a webhook


class StateFilter(DropdownFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return WebhookEndpoint.State.choices

    def queryset(
        self, request: HttpRequest, queryset: QuerySet[WebhookEndpoint]
    ) -> QuerySet[WebhookEndpoint]:
        is_paused = Q(disabled_at=None, paused_until__gt=timezone.now())
        match self.value():
            case WebhookEndpoint.State.DISABLED:
                return queryset.exclude(disabled_at=None)
            case WebhookEndpoint.State.PAUSED:
                return queryset.filter(is_paused)
            case WebhookEndpoint.State.ACTIVE:
                return queryset.filter(disabled_at=None).exclude(is_paused)
        return queryset


@admin.register(WebhookEndpoint)
class WebhookEndpointAdmin(ReadOnlyMixin, ObjectActionsMixin, ModelAdmin):
    when_empty = "A job that names a new URL adds it: field webhook of POST /v1/jobs."
    list_display = ("named", "state_badge", "failures", "last_success", "created")
    list_filter = (StateFilter, ("created_at", RangeDateTimeFilter))
    list_filter_submit = True
    list_select_related = ("owner",)
    list_per_page = 50
    show_full_result_count = False
    search_fields = ("url", "owner__username")
    actions = ("enable", "disable")
    object_actions = ("send_test", "enable", "disable")
    change_form_outer_before_template = "generation/admin/webhook.html"
    readonly_fields = ("state_badge", "unsent")
    fields = (
        "url",
        ("owner", "state_badge"),
        ("failures", "failing_since"),
        ("paused_until", "last_success_at"),
        ("disabled_at", "disabled_reason"),
        ("unsent", "created_at"),
    )

    @display(description="webhook", ordering="url")
    def named(self, endpoint: WebhookEndpoint) -> str:
        return pictures.wording(endpoint.url, endpoint.owner.get_username())

    @display(description="state")
    def state_badge(self, endpoint: WebhookEndpoint) -> str:
        if endpoint.state == WebhookEndpoint.State.ACTIVE and endpoint.failures:
            return pictures.badge(
                "failing",
                f"{endpoint.failures} attempt{pluralize(endpoint.failures, ' failed.,s in a row failed.')}",
            )
        return pictures.badge(endpoint.state, endpoint.disabled_reason)

    last_success = pictures.when_column("last_success_at", "last success")

    created = pictures.when_column("created_at", "created")

    @display(description="webhook deliveries")
    def unsent(self, endpoint: WebhookEndpoint) -> str:
        found = webhooks.unsent([endpoint])
        counts = ", ".join(
            f"{found.get((endpoint.pk, status), 0)} {status}"
            for status in (Delivery.Status.PENDING, Delivery.Status.DEAD)
        )
        address = reverse("admin:generation_delivery_changelist")
        return format_html(
            '<a href="{}?endpoint__id__exact={}">{}</a>', address, endpoint.pk, counts
        )

    def panel(self, request: HttpRequest, obj: Any) -> dict[str, Any]:
        if not request.user.has_perm("generation.view_delivery"):
            return {}
        may_send = request.user.has_perm("generation.change_delivery")
        rows = Delivery.objects.filter(owner_id=obj.owner_id, endpoint=obj).defer("body")
        return {
            "deliveries": [
                {
                    "row": row,
                    "badge": pictures.badge(row.status),
                    "created": pictures.when(row.created_at),
                    "attempts": attempt_list(row),
                    "next": next_attempt(row),
                    "is_sendable": may_send and row.status != Delivery.Status.DELIVERED,
                }
                for row in rows.order_by("-created_at", "-id")[:SHOWN]
            ]
        }

    # --- actions
    def action_applies(self, name: str, obj: Any) -> bool:
        # Enabling a paused endpoint retries its deliveries at once.
        return (
            obj.state != WebhookEndpoint.State.ACTIVE if name == "enable" else not obj.disabled_at
        )

    @action(description="Send a test", icon="send", permissions=["change"])
    def send_test(
        self, request: HttpRequest, queryset: QuerySet[WebhookEndpoint]
    ) -> HttpResponse | None:
        endpoint = queryset.get()
        try:
            delivery = trial.send(endpoint)
        except GenerationError as error:
            messages.error(request, error.detail)
            return None
        self.log_change(request, endpoint, "Test sent.")
        messages.success(request, "A test event is being sent. Reload this page to see the result.")
        return redirect("admin:generation_delivery_change", delivery.pk)

    @action(description="Enable", icon="play_circle", permissions=["change"])
    def enable(self, request: HttpRequest, queryset: QuerySet[WebhookEndpoint]) -> None:
        for endpoint in queryset:
            webhooks.enable(endpoint)
            self.log_change(request, endpoint, "Enabled.")
        messages.success(request, "The webhooks are enabled. Dead deliveries can be sent again.")

    @action(description="Disable", icon="block", permissions=["change"])
    def disable(self, request: HttpRequest, queryset: QuerySet[WebhookEndpoint]) -> None:
        for endpoint in queryset.filter(disabled_at=None):
            webhooks.disable(endpoint, "It was disabled by an operator.")
            self.log_change(request, endpoint, "Disabled.")
        messages.success(request, "The webhooks are disabled; jobs that name them are refused.")


@admin.register(Delivery)
class DeliveryAdmin(ReadOnlyMixin, ObjectActionsMixin, ModelAdmin):
    when_empty = "Jobs that name a webhook send them."
    list_display = ("what", "status_badge", "attempts", "answer", "created", "next_attempt")
    list_filter = (
        ("status", ChoicesDropdownFilter),
        ("event", ChoicesDropdownFilter),
        ("created_at", RangeDateTimeFilter),
    )
    list_filter_submit = True
    list_select_related = ("endpoint",)
    list_per_page = 50
    show_full_result_count = False
    search_fields = ("id__startswith", "job__id__startswith", "endpoint__url")
    search_help_text = "Beginning of the delivery's or job's id, or part of the URL"
    actions = ("send_now",)
    object_actions = ("send_now",)
    readonly_fields = ("status_badge", "next_attempt", "latest_attempts", "shown_body")
    fields = (
        ("id", "owner"),
        ("endpoint", "job"),
        ("event", "status_badge"),
        ("attempts", "next_attempt"),
        ("last_status", "last_error"),
        "latest_attempts",
        ("created_at", "delivered_at"),
        "shown_body",
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Delivery]:
        return super().get_queryset(request).defer("body")

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest | None = None) -> bool:
        """Allow the filter by endpoint, which links on an endpoint's page use."""
        return lookup == "endpoint__id__exact" or super().lookup_allowed(lookup, value, request)

    @display(description="webhook")
    def what(self, delivery: Delivery) -> str:
        return pictures.wording(
            f"{delivery.event} of {str(delivery.job_id)[:8]}", delivery.endpoint.url
        )

    @display(description="status", ordering="status")
    def status_badge(self, delivery: Delivery) -> str:
        return pictures.badge(delivery.status, delivery.last_error)

    @display(description="last response")
    def answer(self, delivery: Delivery) -> str:
        return delivery.last_error or (str(delivery.last_status) if delivery.last_status else "–")

    created = pictures.when_column("created_at", "created")

    @display(description="next attempt", ordering="next_attempt_at")
    def next_attempt(self, delivery: Delivery) -> str:
        return next_attempt(delivery)

    @display(description="latest attempts")
    def latest_attempts(self, delivery: Delivery) -> str:
        return attempt_list(delivery)

    @display(description="body")
    def shown_body(self, delivery: Delivery) -> Any:
        try:
            text = json.dumps(json.loads(delivery.body), indent=2, ensure_ascii=False)
        except ValueError:  # no body yet
            text = delivery.body
        return format_html('<pre class="rt-body">{}</pre>', text) if text else "–"

    # --- actions
    @action(description="Send now", icon="send", permissions=["change"])
    def send_now(self, request: HttpRequest, queryset: QuerySet[Delivery]) -> None:
        done = soon = 0
        refused: dict[str, int] = {}
        for delivery in queryset:
            try:
                is_moved = outbox.send_now(delivery)
            except GenerationError as error:
                refused[error.detail] = refused.get(error.detail, 0) + 1
                continue
            if is_moved:
                done += 1
                self.log_change(request, delivery, "Sent now.")
            else:
                soon += 1
        for detail, count in refused.items():
            messages.error(request, f"{count} not sent: {detail}")
        if done:
            messages.success(request, f"{done} will be sent now.")
        if soon:
            seconds = outbox.LEASE_SECONDS
            messages.info(request, f"{soon} not changed: being sent, or due within {seconds} s.")


def attempt_list(delivery: Delivery) -> SafeString | str:
    """Return the latest attempts as HTML, each with its time and the response or the error."""
    lines = (
        (pictures.when(datetime.fromisoformat(one["at"])), one["error"] or one["status"])
        for one in delivery.attempt_log
    )
    return format_html_join("", '<div class="rt-line">{} <span>{}</span></div>', lines) or "–"


def next_attempt(delivery: Delivery) -> SafeString | str:
    """Return when a pending delivery is sent; "–" for others."""
    is_pending = delivery.status == Delivery.Status.PENDING
    return pictures.when(delivery.next_attempt_at) if is_pending else "–"
