"""Routes of jobs: create, read, list, cancel, delete. The shell of `project.asgi` holds clients that wait."""

import math
from typing import Any, cast
from uuid import UUID

import structlog
from django.db.models import Prefetch, Q, QuerySet
from django.http import Http404, HttpRequest
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.utils import timezone
from django.utils.decorators import method_decorator
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework import status
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import BaseSerializer
from rest_framework.views import APIView

from generation.api.serializers.jobs import (
    JobQuery,
    JobRequestSerializer,
    JobSerializer,
    WaitQuery,
)
from generation.api.serializers.shapes import NoQuery, query
from generation.api.views.pagination import ListView
from generation.api.views.problem_responses import responses
from generation.api.views.waiting import (
    IDEMPOTENCY_KEY,
    POLL_SECONDS,
    WAITING,
    Preference,
    asked_again,
    cancel_after,
    hold,
    holds,
    preference,
    unless_unchanged,
)
from generation.errors import JobPurged
from generation.jobs import estimates, idempotency, reading, retention, submission
from generation.jobs import lifecycle as jobs
from generation.jobs.estimates import Estimate
from generation.jobs.job_request import JobRequest
from generation.models import APIKey, Job, PromptVariant, Release
from generation.webhooks.predictions import ROWS

MAX_POLL_SECONDS = 120  # OpenAI's clients ignore longer waits


def owned(request: HttpRequest | Request) -> QuerySet[Job]:
    """Return the jobs of the key's owner."""
    return ROWS.filter(owner_id=request.user.pk)


def one(request: HttpRequest | Request, job_id: UUID) -> Job:
    """Return the owner's job. Raises Http404, or JobPurged if its images were removed."""
    try:
        job = reading.owned(job_id, request.user.pk)
    except Job.DoesNotExist as error:
        raise Http404 from error
    return kept(_in_time(request, job))


def kept(job: Job) -> Job:
    """Return the job unless it was purged. Raises JobPurged."""
    if job.purged_at is not None:
        raise JobPurged(
            "Its images are gone. Send the same request again, with another Idempotency-Key if one came with it."
        )
    return job


def found(request: HttpRequest | Request, wanted: Q) -> Job:
    """Return the owner's job that meets the condition. Raises Http404."""
    return _in_time(request, get_object_or_404(owned(request), wanted))


def _in_time(request: HttpRequest | Request, job: Job) -> Job:
    """Return the job, canceled if its deadline has passed."""
    is_over = job.cancel_at is not None and job.cancel_at <= timezone.now()
    if is_over and not job.is_terminal and jobs.end_overdue(job.id):
        job = owned(request).get(id=job.id)
    return job


def render(
    request: Request,
    job: Job,
    *,
    code: int = status.HTTP_200_OK,
    is_held: bool = False,
    serializer: type[BaseSerializer[Job]] = JobSerializer,
) -> Response:
    """Return the response. is_held: the shell will replace it by a later one, so the queue is not estimated."""
    estimate = None if is_held else estimates.of(job)
    context = {"request": request, "estimate": estimate}
    response = Response(serializer(job, context=context).data, status=code)
    if not job.is_terminal:
        response["Retry-After"] = _poll_after(estimate)
    return response


def _poll_after(estimate: Estimate | None) -> str:
    # At least a second, also for jobs that end sooner.
    seconds = math.ceil((estimate and estimate.eta_p50) or POLL_SECONDS)
    return str(min(max(POLL_SECONDS, seconds), MAX_POLL_SECONDS))


def _answer(
    request: Request, job: Job, prefers: Preference, *, then: str, is_new: bool = False
) -> Response:
    """Answer now or, if the client prefers to wait, when the job has ended. is_new: the request created the job."""
    code = status.HTTP_202_ACCEPTED if is_new and not job.is_terminal else status.HTTP_200_OK
    is_held = holds(request, job, seconds=prefers.seconds)
    response = render(request, job, code=code, is_held=is_held)
    if is_new:
        response["Location"] = response.data["urls"]["self"]
    return hold(request, response, job, seconds=prefers.seconds, then=then, applied=prefers.applied)


FILTERS = {
    "status": "status",
    "variant": "variant",
    "model": "release",
    "via": "via",
    "created_after": "created_at__gt",
    "created_before": "created_at__lt",
}


def filtered(rows: QuerySet[Job], asked: dict[str, Any]) -> QuerySet[Job]:
    """Apply the FILTERS of the query."""
    wanted = {FILTERS[name]: asked[name] for name in FILTERS.keys() & asked.keys()}
    # By primary keys: in a join PostgreSQL cannot estimate how many jobs match, and reads all jobs of the owner.
    if "variant" in asked:
        wanted["variant"] = _pk(PromptVariant.objects.filter(slug=asked["variant"]))
    if "model" in asked:
        wanted["release"] = _pk(Release.objects.filter(name=asked["model"]))
    return rows.filter(**wanted)


def _pk(rows: QuerySet[Any]) -> int | None:
    return rows.values_list("pk", flat=True).first()


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
        """List your jobs, newest first."""
        return self.page(request)

    def rows(self, request: Request, asked: dict[str, Any]) -> QuerySet[Job]:
        rows = owned(request).filter(purged_at__isnull=True)
        with_images = rows.prefetch_related(Prefetch("images", to_attr=reading.IMAGES))
        return filtered(with_images.order_by("-created_at", "-id"), asked)

    @extend_schema(
        operation_id="create_job",
        parameters=[*WAITING, IDEMPOTENCY_KEY],
        request=JobRequestSerializer,
        responses={
            200: OpenApiResponse(JobSerializer, "Answered at once from stored images"),
            202: OpenApiResponse(JobSerializer, "Accepted; Location is the URL to poll"),
        }
        | responses(400, 401, 403, 409, 410, 422, 503),
    )
    def post(self, request: Request) -> Response:
        """Create a job. With `Prefer: wait=30` the answer comes when it has finished, or after 30 seconds."""
        query(NoQuery, request)
        asked = JobRequestSerializer(data=request.data)
        asked.is_valid(raise_exception=True)

        def make() -> Job:
            wanted = JobRequest(
                **asked.validated_data,
                cancel_after=cancel_after(request),
                api_key=cast(APIKey, request.auth),
                base_url=request.build_absolute_uri("/"),
            )
            return submission.submit(request.user, wanted)

        key = idempotency.key_of(request.headers.get("Idempotency-Key"))
        job = idempotency.once(request.user, "jobs", key=key, body=request.data, make=make)
        structlog.contextvars.bind_contextvars(job_id=str(job.id))
        then = reverse("job", args=[job.id])
        return _answer(request, kept(job), preference(request), then=then, is_new=True)


@method_decorator(unless_unchanged, name="dispatch")
class JobDetail(APIView):
    required_scopes = {"GET": APIKey.Scope.JOBS_READ, "DELETE": APIKey.Scope.JOBS_WRITE}

    @extend_schema(
        operation_id="read_job",
        parameters=[WaitQuery],
        responses={200: JobSerializer} | responses(400, 401, 403, 404, 410),
    )
    def get(self, request: Request, job_id: UUID) -> Response:
        """Read a job. With `wait` the answer comes when it has finished, or after so many seconds."""
        structlog.contextvars.bind_contextvars(job_id=str(job_id))
        asked = query(WaitQuery, request)
        return _answer(
            request,
            one(request, job_id),
            preference(request, wait=asked["wait"]),
            then=request.get_full_path(),
            is_new=asked_again(request) == "POST",
        )

    @extend_schema(
        operation_id="delete_job",
        request=None,
        responses={204: None} | responses(400, 401, 403, 404),
    )
    def delete(self, request: Request, job_id: UUID) -> Response:
        """Delete the images of a job permanently; cancel it first if it has not finished. Idempotent."""
        structlog.contextvars.bind_contextvars(job_id=str(job_id))
        query(NoQuery, request)
        retention.purge(found(request, Q(id=job_id)).id)
        return Response(status=status.HTTP_204_NO_CONTENT)


class JobCancel(APIView):
    required_scopes = {"POST": APIKey.Scope.JOBS_WRITE}

    @extend_schema(
        operation_id="cancel_job",
        request=None,
        responses={200: JobSerializer} | responses(401, 403, 404, 410),
    )
    def post(self, request: Request, job_id: UUID) -> Response:
        """Cancel a job. A finished one is returned unchanged."""
        structlog.contextvars.bind_contextvars(job_id=str(job_id))
        query(NoQuery, request)
        jobs.cancel(one(request, job_id).id)
        return render(request, owned(request).get(id=job_id))
