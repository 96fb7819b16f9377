"""Serializers of webhook endpoints, deliveries and signing secrets."""

from typing import Any

from drf_spectacular.utils import extend_schema_serializer
from rest_framework import serializers

from generation.api.serializers.shapes import PageQuery, url
from generation.models import Delivery, WebhookEndpoint
from generation.webhooks import endpoints as webhooks


class SecretSerializer(serializers.Serializer[Any]):
    key = serializers.CharField(help_text="whsec_…, the format of the Standard Webhooks libraries.")


class DeliveryQuery(PageQuery):
    status = serializers.ChoiceField(Delivery.Status.choices)
    job = serializers.UUIDField(help_text="Id of a job.")


class EndpointURLsSerializer(serializers.Serializer[Any]):
    enable = serializers.URLField()
    test = serializers.URLField()


class _Endpoints(serializers.ListSerializer[Any]):
    def to_representation(self, data: Any) -> list[Any]:
        """Count unsent deliveries of all endpoints in one query."""
        self.child.unsent = webhooks.unsent(list(data))  # type: ignore[union-attr]
        return super().to_representation(data)


@extend_schema_serializer(component_name="Webhook")
class EndpointSerializer(serializers.Serializer[WebhookEndpoint]):
    id = serializers.IntegerField()
    url = serializers.CharField()
    state = serializers.ChoiceField(WebhookEndpoint.State.choices)
    failures = serializers.IntegerField(help_text="Consecutive failures.")
    failing_since = serializers.DateTimeField(allow_null=True)
    paused_until = serializers.DateTimeField(
        allow_null=True, help_text="Deliveries are paused until then; then one is tried."
    )
    disabled_at = serializers.DateTimeField(allow_null=True)
    disabled_reason = serializers.CharField()
    last_success_at = serializers.DateTimeField(allow_null=True)
    pending = serializers.IntegerField(help_text="Deliveries not sent yet.")
    dead = serializers.IntegerField(help_text="Deliveries that were given up.")
    created_at = serializers.DateTimeField()
    urls = EndpointURLsSerializer()

    class Meta:
        list_serializer_class = _Endpoints

    unsent: dict[tuple[int, str], int] | None = None

    def to_representation(self, instance: WebhookEndpoint) -> dict[str, Any]:
        unsent = webhooks.unsent([instance]) if self.unsent is None else self.unsent
        return {
            "id": instance.pk,
            "url": instance.url,
            "state": instance.state,
            "failures": instance.failures,
            "failing_since": instance.failing_since,
            "paused_until": instance.paused_until,
            "disabled_at": instance.disabled_at,
            "disabled_reason": instance.disabled_reason,
            "last_success_at": instance.last_success_at,
            "pending": unsent.get((instance.pk, Delivery.Status.PENDING), 0),
            "dead": unsent.get((instance.pk, Delivery.Status.DEAD), 0),
            "created_at": instance.created_at,
            "urls": {
                "enable": url(self, "webhook-enable", instance.pk),
                "test": url(self, "webhook-test", instance.pk),
            },
        }


class DeliveryURLsSerializer(serializers.Serializer[Any]):
    job = serializers.URLField()
    replay = serializers.URLField()


class DeliverySerializer(serializers.Serializer[Delivery]):
    id = serializers.UUIDField(help_text="Header webhook-id of each attempt.")
    webhook = serializers.IntegerField(help_text="Id of the endpoint.")
    url = serializers.CharField()
    job = serializers.UUIDField()
    event = serializers.ChoiceField(Delivery.Event.choices)
    status = serializers.ChoiceField(Delivery.Status.choices)
    attempts = serializers.IntegerField(help_text="Attempts so far.")
    next_attempt_at = serializers.DateTimeField(
        allow_null=True, help_text="Null unless the delivery is pending."
    )
    last_status = serializers.IntegerField(
        allow_null=True, help_text="HTTP status of the last attempt."
    )
    last_error = serializers.CharField()
    created_at = serializers.DateTimeField(help_text="Time of the event.")
    delivered_at = serializers.DateTimeField(allow_null=True)
    urls = DeliveryURLsSerializer()

    def to_representation(self, instance: Delivery) -> dict[str, Any]:
        is_pending = instance.status == Delivery.Status.PENDING
        return {
            "id": str(instance.pk),
            "webhook": instance.endpoint_id,
            "url": instance.endpoint.url,
            "job": str(instance.job_id),
            "event": instance.event,
            "status": instance.status,
            "attempts": instance.attempts,
            "next_attempt_at": instance.next_attempt_at if is_pending else None,
            "last_status": instance.last_status,
            "last_error": instance.last_error,
            "created_at": instance.created_at,
            "delivered_at": instance.delivered_at,
            "urls": {
                "job": url(self, "job", instance.job_id),
                "replay": url(self, "webhook-replay", instance.pk),
            },
        }
