"""Views of the active prompt variants."""

from typing import Any

from django.db.models import Q, QuerySet
from django.shortcuts import get_object_or_404
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from generation.api.serializers.shapes import NoQuery, query
from generation.api.serializers.variants import VariantQuery, VariantSerializer
from generation.api.views.pagination import ListView
from generation.api.views.problem_responses import responses
from generation.models import APIKey, PromptVariant

ACTIVE = PromptVariant.objects.filter(status=PromptVariant.Status.ACTIVE)


class VariantList(ListView):
    required_scopes = {"GET": APIKey.Scope.VARIANTS_READ}
    query_class = VariantQuery
    serializer_class = VariantSerializer

    @extend_schema(
        operation_id="list_variants",
        parameters=[VariantQuery],
        responses={200: VariantSerializer(many=True)} | responses(400, 401, 403),
    )
    def get(self, request: Request) -> Response:
        """List the active prompt variants, by slug."""
        return self.page(request)

    def rows(self, request: Request, asked: dict[str, Any]) -> QuerySet[PromptVariant]:
        rows = ACTIVE.order_by("slug")
        if "q" in asked:
            rows = rows.filter(Q(text__icontains=asked["q"]) | Q(slug__icontains=asked["q"]))
        if "tag" in asked:
            rows = rows.filter(tags__contains=[asked["tag"]])
        return rows


class VariantDetail(APIView):
    required_scopes = {"GET": APIKey.Scope.VARIANTS_READ}

    @extend_schema(
        operation_id="read_variant", responses={200: VariantSerializer} | responses(401, 403, 404)
    )
    def get(self, request: Request, slug: str) -> Response:
        """Read an active prompt variant."""
        query(NoQuery, request)
        variant = get_object_or_404(ACTIVE, slug=slug)
        return Response(VariantSerializer(variant, context={"request": request}).data)
