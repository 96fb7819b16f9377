"""Views of designs: list, create, read, cancel."""

from typing import Any

from django.db.models import QuerySet
from django.shortcuts import get_object_or_404
from drf_spectacular.utils import extend_schema
from rest_framework import status
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.reverse import reverse
from rest_framework.views import APIView

from distillation.api.design_serializers import (
    DesignDetailSerializer,
    DesignQuery,
    DesignRequestSerializer,
    DesignSerializer,
)
from distillation.api.views import POLL_SECONDS
from distillation.design.limits import LimitRefused
from distillation.designs import briefs
from distillation.designs import lifecycle as designs
from distillation.models import Design
from generation.api.serializers.shapes import NoQuery, query
from generation.api.views.pagination import ListView
from generation.api.views.problem_responses import responses
from generation.models import APIKey


def rows() -> QuerySet[Design]:
    return Design.objects.select_related("teacher", "student")


def render(design: Design, *, code: int = status.HTTP_200_OK) -> Response:
    response = Response(DesignDetailSerializer(design).data, status=code)
    if design.is_open:
        response["Retry-After"] = str(POLL_SECONDS)
    return response


class DesignList(ListView):
    required_scopes = {"GET": APIKey.Scope.RELEASES_READ, "POST": APIKey.Scope.RELEASES_WRITE}
    query_class = DesignQuery
    serializer_class = DesignSerializer

    @extend_schema(
        operation_id="list_designs",
        parameters=[DesignQuery],
        responses={200: DesignSerializer(many=True)} | responses(400, 401, 403),
    )
    def get(self, request: Request) -> Response:
        """List designs, newest first."""
        return self.page(request)

    def rows(self, request: Request, asked: dict[str, Any]) -> QuerySet[Design]:
        found = rows().order_by("-created_at", "-pk")
        return found.filter(status=asked["status"]) if "status" in asked else found

    @extend_schema(
        operation_id="create_design",
        request=DesignRequestSerializer,
        responses={202: DesignDetailSerializer} | responses(400, 401, 403, 409, 422),
    )
    def post(self, request: Request) -> Response:
        """Search for a student within limits. A distillation worker does it, in slices, when no run waits."""
        query(NoQuery, request)
        asked = DesignRequestSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        try:
            brief = briefs.of(**asked.validated_data, is_for_workers=True, person=request.user)
        except LimitRefused as error:
            raise ValidationError({error.field: error.reason}) from error
        design = designs.create(brief, is_for_workers=True, created_by=request.user)
        response = render(rows().get(pk=design.pk), code=status.HTTP_202_ACCEPTED)
        response["Location"] = reverse("design", args=[design.pk], request=request)
        return response


class DesignDetail(APIView):
    required_scopes = {"GET": APIKey.Scope.RELEASES_READ}

    @extend_schema(
        operation_id="read_design",
        responses={200: DesignDetailSerializer} | responses(400, 401, 403, 404),
    )
    def get(self, request: Request, number: int) -> Response:
        """Read a design with its candidates."""
        query(NoQuery, request)
        return render(get_object_or_404(rows(), pk=number))


class DesignCancel(APIView):
    required_scopes = {"POST": APIKey.Scope.RELEASES_WRITE}

    @extend_schema(
        operation_id="cancel_design",
        request=None,
        responses={200: DesignDetailSerializer} | responses(400, 401, 403, 404, 409),
    )
    def post(self, request: Request, number: int) -> Response:
        """Cancel a design. One that is already canceled is returned unchanged."""
        query(NoQuery, request)
        designs.cancel(get_object_or_404(rows(), pk=number))
        return render(rows().get(pk=number))
