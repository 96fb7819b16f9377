"""Views of releases: the values of `model`."""

from typing import Any

from django.db.models import QuerySet
from django.shortcuts import get_object_or_404
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from generation.api.serializers.releases import ReleaseQuery, ReleaseSerializer
from generation.api.serializers.shapes import NoQuery, query
from generation.api.views.pagination import ListView
from generation.api.views.problem_responses import responses
from generation.models import APIKey, Release


class ReleaseList(ListView):
    required_scopes = {"GET": APIKey.Scope.RELEASES_READ}
    query_class = ReleaseQuery
    serializer_class = ReleaseSerializer

    @extend_schema(
        operation_id="list_releases",
        parameters=[ReleaseQuery],
        responses={200: ReleaseSerializer(many=True)} | responses(400, 401, 403),
    )
    def get(self, request: Request) -> Response:
        """List the releases, newest first."""
        return self.page(request)

    def rows(self, request: Request, asked: dict[str, Any]) -> QuerySet[Release]:
        filters = {name: asked[name] for name in ("kind", "status") if name in asked}
        return Release.objects.filter(**filters).order_by("-registered_at", "-pk")


class ReleaseDetail(APIView):
    required_scopes = {"GET": APIKey.Scope.RELEASES_READ}

    @extend_schema(
        operation_id="read_release", responses={200: ReleaseSerializer} | responses(401, 403, 404)
    )
    def get(self, request: Request, name: str) -> Response:
        """Read a release."""
        query(NoQuery, request)
        release = get_object_or_404(Release, name=name)
        return Response(ReleaseSerializer(release, context={"request": request}).data)
