"""Predictions over HTTP, as clients of Replicate know them: a job seen in another form."""

import contextlib
from uuid import UUID

import structlog
from django.db.models import Q, QuerySet
from django.http import Http404
from drf_spectacular.utils import extend_schema
from rest_framework import status
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from generation import jobs
from generation.models import APIKey, Job
from generation.serializers import NoQuery, query
from generation.serializers.predictions import PredictionSerializer
from generation.views.holding import POLL_SECONDS
from generation.views.problems import responses


def owned(request: Request) -> QuerySet[Job]:
    """The jobs of the key's owner, with what a rendering reads and nothing big."""
    return (
        Job.objects.filter(owner_id=request.user.pk)
        .select_related("variant", "release", "embedding")
        .only(
            *(field.attname for field in Job._meta.concrete_fields),
            "variant__slug",
            "release__kind",
            "release__manifest_sha256",
            "embedding__text",
        )
        .prefetch_related("images")
    )


def named(request: Request, name: str) -> Job:
    """The job that the client's id means: one that it chose itself, else ours. Raises Http404."""
    wanted = Q(external_id=name)
    with contextlib.suppress(ValueError):
        wanted |= Q(id=UUID(name))
    job = owned(request).filter(wanted).order_by("-external_id").first()
    if job is None:
        raise Http404
    structlog.contextvars.bind_contextvars(job_id=str(job.id))
    return job


def render(request: Request, job: Job, *, code: int = status.HTTP_200_OK) -> Response:
    response = Response(PredictionSerializer(job, context={"request": request}).data, status=code)
    if not job.is_terminal:
        response["Retry-After"] = str(POLL_SECONDS)
    return response


class PredictionDetail(APIView):
    required_scopes = {"GET": APIKey.Scope.JOBS_READ}

    @extend_schema(
        operation_id="read_prediction",
        responses={200: PredictionSerializer} | responses(400, 401, 403, 404),
    )
    def get(self, request: Request, prediction_id: str) -> Response:
        """A prediction as it is now."""
        query(NoQuery, request)
        return render(request, named(request, prediction_id))


class PredictionCancel(APIView):
    required_scopes = {"POST": APIKey.Scope.JOBS_WRITE}

    @extend_schema(
        operation_id="cancel_prediction",
        request=None,
        responses={200: PredictionSerializer} | responses(400, 401, 403, 404),
    )
    def post(self, request: Request, prediction_id: str) -> Response:
        """End a prediction. One that has ended already is answered unchanged."""
        query(NoQuery, request)
        jobs.cancel(named(request, prediction_id).id)
        return render(request, named(request, prediction_id))
