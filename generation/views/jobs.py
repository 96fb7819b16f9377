"""Jobs over HTTP: create, read, list, cancel. A client that wants to wait is handed to the shell of `project.asgi`."""

from typing import Any
from uuid import UUID

import structlog
from django.db.models import QuerySet
from django.shortcuts import get_object_or_404
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework import status
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from generation import jobs, submission
from generation.models import APIKey, Job
from generation.serializers import (
    JobQuery,
    JobRequestSerializer,
    JobSerializer,
    NoQuery,
    WaitQuery,
    query,
)
from generation.views.holding import POLL_SECONDS, hold
from generation.views.pages import ListView
from generation.views.problems import responses


def owned(request: Request) -> QuerySet[Job]:
    """The jobs of the key's owner, with what a rendering reads and nothing big (an embedding is 100 KB)."""
    return (
        Job.objects.filter(owner_id=request.user.pk)
        .select_related("variant", "release", "embedding")
        .only(
            *(field.attname for field in Job._meta.concrete_fields),
            "variant__slug",
            "release__name",
            "embedding__text",
        )
    )


def render(request: Request, job: Job, *, code: int = status.HTTP_200_OK) -> Response:
    response = Response(JobSerializer(job, context={"request": request}).data, status=code)
    if not job.is_terminal:
        response["Retry-After"] = str(POLL_SECONDS)
    return response


class JobList(ListView):
    required_scopes = {"GET": APIKey.Scope.JOBS_READ, "POST": APIKey.Scope.JOBS_WRITE}
    query_class = JobQuery
    serializer_class = JobSerializer

    @extend_schema(
        operation_id="list_jobs",
        parameters=[JobQuery],
        responses={200: JobSerializer(many=True)} | responses(400, 401, 403),
    )
    def get(self, request: Request) -> Response:
        """Your jobs, newest first."""
        return self.page(request)

    def rows(self, request: Request, asked: dict[str, Any]) -> QuerySet[Job]:
        rows = owned(request).prefetch_related("images").order_by("-created_at", "-id")
        return rows.filter(status=asked["status"]) if "status" in asked else rows

    @extend_schema(
        operation_id="create_job",
        request=JobRequestSerializer,
        responses={
            200: OpenApiResponse(JobSerializer, "Answered at once from stored images"),
            202: OpenApiResponse(JobSerializer, "Accepted; Location says where to ask"),
        }
        | responses(400, 401, 403, 409, 422, 503),
    )
    def post(self, request: Request) -> Response:
        """Ask for images."""
        query(NoQuery, request)
        asked = JobRequestSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        job = submission.submit(request.user, **asked.validated_data)
        structlog.contextvars.bind_contextvars(job_id=str(job.id))
        code = status.HTTP_200_OK if job.is_terminal else status.HTTP_202_ACCEPTED
        response = render(request, job, code=code)
        response["Location"] = response.data["urls"]["self"]
        return response


class JobDetail(APIView):
    required_scopes = {"GET": APIKey.Scope.JOBS_READ}

    @extend_schema(
        operation_id="read_job",
        parameters=[WaitQuery],
        responses={200: JobSerializer} | responses(400, 401, 403, 404),
    )
    def get(self, request: Request, job_id: UUID) -> Response:
        """A job as it is now, or, with `wait`, when it has ended or the time is up."""
        structlog.contextvars.bind_contextvars(job_id=str(job_id))
        asked = query(WaitQuery, request)
        job = get_object_or_404(owned(request), id=job_id)
        response = render(request, job)
        return hold(request, response, job, seconds=asked["wait"], then=request.get_full_path())


class JobCancel(APIView):
    required_scopes = {"POST": APIKey.Scope.JOBS_WRITE}

    @extend_schema(
        operation_id="cancel_job",
        request=None,
        responses={200: JobSerializer} | responses(401, 403, 404),
    )
    def post(self, request: Request, job_id: UUID) -> Response:
        """End a job. One that has ended already is answered unchanged."""
        structlog.contextvars.bind_contextvars(job_id=str(job_id))
        query(NoQuery, request)
        jobs.cancel(get_object_or_404(owned(request), id=job_id).id)
        return render(request, owned(request).get(id=job_id))
