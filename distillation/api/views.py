"""Views of distillation runs: list, create, read, pause, resume, cancel."""

from collections.abc import Callable
from typing import Any

from django.db.models import QuerySet
from django.shortcuts import get_object_or_404
from drf_spectacular.utils import extend_schema
from rest_framework import status
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.reverse import reverse
from rest_framework.views import APIView

from distillation.api.serializers import (
    RunDetailSerializer,
    RunQuery,
    RunRequestSerializer,
    RunSerializer,
)
from distillation.models import Run
from distillation.runs import lifecycle as runs
from distillation.runs import policy
from generation.api.serializers.shapes import NoQuery, query
from generation.api.views.pagination import ListView
from generation.api.views.problem_responses import responses
from generation.models import APIKey

POLL_SECONDS = 5


def rows() -> QuerySet[Run]:
    return Run.objects.select_related("teacher", "begins_with")


def render(run: Run, *, code: int = status.HTTP_200_OK) -> Response:
    response = Response(RunDetailSerializer(run).data, status=code)
    if run.is_open:
        response["Retry-After"] = str(POLL_SECONDS)
    return response


class RunList(ListView):
    required_scopes = {"GET": APIKey.Scope.RELEASES_READ, "POST": APIKey.Scope.RELEASES_WRITE}
    query_class = RunQuery
    serializer_class = RunSerializer

    @extend_schema(
        operation_id="list_runs",
        parameters=[RunQuery],
        responses={200: RunSerializer(many=True)} | responses(400, 401, 403),
    )
    def get(self, request: Request) -> Response:
        """List distillation runs, newest first."""
        return self.page(request)

    def rows(self, request: Request, asked: dict[str, Any]) -> QuerySet[Run]:
        found = rows().order_by("-created_at", "-pk")
        return found.filter(status=asked["status"]) if "status" in asked else found

    @extend_schema(
        operation_id="create_run",
        request=RunRequestSerializer,
        responses={202: RunDetailSerializer} | responses(400, 401, 403, 409, 422),
    )
    def post(self, request: Request) -> Response:
        """Start a run for the active catalogue now, regardless of the schedule."""
        query(NoQuery, request)
        asked = RunRequestSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        run = policy.start(
            recipe=asked.validated_data.get("recipe"),
            is_warm=not asked.validated_data["anew"],
            policy=asked.validated_data.get("policy"),
            tags=asked.validated_data["tags"],
            created_by=request.user,
        )
        response = render(run, code=status.HTTP_202_ACCEPTED)
        response["Location"] = reverse("run", args=[run.name], request=request)
        return response


class RunDetail(APIView):
    required_scopes = {"GET": APIKey.Scope.RELEASES_READ}

    @extend_schema(
        operation_id="read_run",
        responses={200: RunDetailSerializer} | responses(400, 401, 403, 404),
    )
    def get(self, request: Request, name: str) -> Response:
        """Read a run."""
        query(NoQuery, request)
        return render(get_object_or_404(rows(), name=name))


class RunChange(APIView):
    """What pause, resume and cancel have in common."""

    required_scopes = {"POST": APIKey.Scope.RELEASES_WRITE}

    def changed(self, request: Request, name: str, change: Callable[[Run], Run]) -> Response:
        query(NoQuery, request)
        change(get_object_or_404(rows(), name=name))
        return render(rows().get(name=name))


CHANGED = {200: RunDetailSerializer} | responses(400, 401, 403, 404, 409)


class RunPause(RunChange):
    @extend_schema(operation_id="pause_run", request=None, responses=CHANGED)
    def post(self, request: Request, name: str) -> Response:
        """Pause a run after the current step; resume continues from there."""
        return self.changed(request, name, runs.pause)


class RunResume(RunChange):
    @extend_schema(operation_id="resume_run", request=None, responses=CHANGED)
    def post(self, request: Request, name: str) -> Response:
        """Resume a paused or failed run."""
        return self.changed(request, name, runs.resume)


class RunCancel(RunChange):
    @extend_schema(operation_id="cancel_run", request=None, responses=CHANGED)
    def post(self, request: Request, name: str) -> Response:
        """Cancel a run. A run that is already canceled is returned unchanged."""
        return self.changed(request, name, runs.cancel)
