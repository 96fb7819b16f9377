"""Views of webhooks: signing secret, endpoints and deliveries of the owner, replay."""

from typing import Any, cast
from uuid import UUID

from django.db.models import QuerySet
from django.shortcuts import get_object_or_404
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from generation.api.serializers.shapes import NoQuery, PageQuery, query
from generation.api.serializers.webhooks import (
    DeliveryQuery,
    DeliverySerializer,
    EndpointSerializer,
    SecretSerializer,
)
from generation.api.views.pagination import ListView
from generation.api.views.problem_responses import responses
from generation.models import APIKey, Delivery, WebhookEndpoint, WebhookSecret
from generation.webhooks import endpoints as webhooks
from generation.webhooks import trial


class Secret(APIView):
    required_scopes = {"GET": APIKey.Scope.JOBS_WRITE, "POST": APIKey.Scope.JOBS_WRITE}

    @extend_schema(
        operation_id="read_webhook_secret",
        responses={200: SecretSerializer} | responses(400, 401, 403),
    )
    def get(self, request: Request) -> Response:
        """Read the secret that signs your webhooks."""
        query(NoQuery, request)
        return self._answer(webhooks.secret_of(cast(APIKey, request.auth).owner_id))

    @extend_schema(
        operation_id="rotate_webhook_secret",
        request=None,
        responses={200: SecretSerializer} | responses(400, 401, 403),
    )
    def post(self, request: Request) -> Response:
        """Create a new secret. For 24 hours webhooks are signed with the previous one as well."""
        query(NoQuery, request)
        return self._answer(webhooks.rotate(cast(APIKey, request.auth).owner_id))

    def _answer(self, secret: WebhookSecret) -> Response:
        return Response({"key": secret.secret}, headers={"Cache-Control": "no-store"})


class WebhookList(ListView):
    required_scopes = {"GET": APIKey.Scope.JOBS_READ}
    serializer_class = EndpointSerializer

    @extend_schema(
        operation_id="list_webhooks",
        parameters=[PageQuery],
        responses={200: EndpointSerializer(many=True)} | responses(400, 401, 403),
    )
    def get(self, request: Request) -> Response:
        """List the webhook URLs of your jobs, newest first."""
        return self.page(request)

    def rows(self, request: Request, asked: dict[str, Any]) -> QuerySet[WebhookEndpoint]:
        return WebhookEndpoint.objects.filter(owner_id=request.user.pk).order_by(
            "-created_at", "-pk"
        )


class WebhookEnable(APIView):
    required_scopes = {"POST": APIKey.Scope.JOBS_WRITE}

    @extend_schema(
        operation_id="enable_webhook",
        request=None,
        responses={200: EndpointSerializer} | responses(400, 401, 403, 404),
    )
    def post(self, request: Request, endpoint_id: int) -> Response:
        """Enable a webhook and reset its failures. Deliveries given up in the meantime can be replayed."""
        query(NoQuery, request)
        found = get_object_or_404(WebhookEndpoint, pk=endpoint_id, owner_id=request.user.pk)
        shown = EndpointSerializer(webhooks.enable(found), context={"request": request})
        return Response(shown.data)


class WebhookTest(APIView):
    required_scopes = {"POST": APIKey.Scope.JOBS_WRITE}

    @extend_schema(
        operation_id="test_webhook",
        request=None,
        responses={200: DeliverySerializer} | responses(400, 401, 403, 404, 409),
    )
    def post(self, request: Request, endpoint_id: int) -> Response:
        """Send a test event: that of the webhook's latest ended job, with is_test and a new id."""
        query(NoQuery, request)
        found = get_object_or_404(WebhookEndpoint, pk=endpoint_id, owner_id=request.user.pk)
        shown = DeliverySerializer(trial.send(found), context={"request": request})
        return Response(shown.data)


class DeliveryList(ListView):
    required_scopes = {"GET": APIKey.Scope.JOBS_READ}
    query_class = DeliveryQuery
    serializer_class = DeliverySerializer

    @extend_schema(
        operation_id="list_webhook_deliveries",
        parameters=[DeliveryQuery],
        responses={200: DeliverySerializer(many=True)} | responses(400, 401, 403),
    )
    def get(self, request: Request) -> Response:
        """List the deliveries to your webhooks, sent and pending, newest first."""
        return self.page(request)

    def rows(self, request: Request, asked: dict[str, Any]) -> QuerySet[Delivery]:
        filters = {name: asked[name] for name in ("status", "job") if name in asked}
        rows = Delivery.objects.filter(owner_id=request.user.pk, **filters)
        return rows.select_related("endpoint").defer("body").order_by("-created_at", "-id")


class DeliveryReplay(APIView):
    required_scopes = {"POST": APIKey.Scope.JOBS_WRITE}

    @extend_schema(
        operation_id="replay_webhook_delivery",
        request=None,
        responses={200: DeliverySerializer} | responses(400, 401, 403, 404, 409),
    )
    def post(self, request: Request, delivery_id: UUID) -> Response:
        """Send a delivery again now, with the same id and body. A pending one is returned unchanged."""
        query(NoQuery, request)
        mine = Delivery.objects.select_related("endpoint").filter(owner_id=request.user.pk)
        found = get_object_or_404(mine, pk=delivery_id)
        shown = DeliverySerializer(webhooks.replay(found), context={"request": request})
        return Response(shown.data)
