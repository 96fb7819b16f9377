"""Views of predictions: jobs in the format of Replicate's API."""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import structlog
from django.db.models import Q, QuerySet
from django.http import Http404
from django.urls import reverse
from django.utils.decorators import method_decorator
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework import status
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from generation.api.replicate import versions
from generation.api.replicate.serializers import (
    ModelPredictionRequestSerializer,
    PredictionQuery,
    PredictionRequestSerializer,
    PredictionSerializer,
)
from generation.api.serializers.jobs import WaitQuery
from generation.api.serializers.shapes import NoQuery, Strict, query
from generation.api.views import jobs as jobs_views
from generation.api.views.jobs import filtered, found, owned
from generation.api.views.pagination import ListView
from generation.api.views.problem_responses import responses
from generation.api.views.waiting import (
    IDEMPOTENCY_KEY,
    WAITING,
    Preference,
    asked_again,
    cancel_after,
    hold,
    holds,
    preference,
    unless_unchanged,
)
from generation.errors import GenerationError, InvalidRequest
from generation.jobs import idempotency, submission
from generation.jobs import lifecycle as jobs
from generation.jobs.job_request import JobRequest
from generation.models import APIKey, Job
from generation.webhooks.predictions import STATUSES, called, identifier, is_identifier

ROUTE = "predictions"  # for idempotency keys
CREATED: dict[Any, Any] = {
    201: OpenApiResponse(PredictionSerializer, "Finished"),
    202: OpenApiResponse(PredictionSerializer, "Accepted; Location is the URL to poll"),
}
# Parameter of `submission`: its place in a prediction.
PARAMETERS = {"text": "input.prompt", "n": "input.num_outputs"} | {
    name: f"input.{name}" for name in ("variant", "seed", "size", "output_format", "priority")
}


def named(request: Request, name: str) -> Job:
    """Return the owner's job with this id or external id. Raises Http404."""
    if not is_identifier(name):
        raise Http404
    job = found(request, called(name))
    structlog.contextvars.bind_contextvars(job_id=str(job.id))
    return job


render = partial(jobs_views.render, serializer=PredictionSerializer)


def _answer(
    request: Request, job: Job, prefers: Preference, *, then: str, is_creation: bool = False
) -> Response:
    """Answer now, or when the wait is over."""
    created = status.HTTP_201_CREATED if job.is_terminal else status.HTTP_202_ACCEPTED
    code = created if is_creation else status.HTTP_200_OK
    is_held = holds(request, job, seconds=prefers.seconds)
    response = render(request, job, code=code, is_held=is_held)
    if is_creation:
        response["Location"] = response.data["urls"]["get"]
        if not job.is_terminal:
            # As at Replicate: clients take any other status in this answer for final. `phase` has the details.
            response.data["status"] = STATUSES[Job.Status.QUEUED]
    return hold(request, response, job, seconds=prefers.seconds, then=then, applied=prefers.applied)


def _create(
    request: Request,
    serializer: type[Strict],
    *,
    model: str | None = None,
    external_id: str = "",
) -> Response:
    """Create a prediction. model: "owner/name" of the URL; external_id: the id in the URL."""
    query(NoQuery, request)
    body = cast(dict[str, Any], request.data)
    asked = serializer(data=body)
    asked.is_valid(raise_exception=True)
    make = _maker(request, asked.validated_data, model=model, external_id=external_id)
    if external_id:
        job = idempotency.by_external_id(request.user, external_id, body=request.data, make=make)
    else:
        key = idempotency.key_of(request.headers.get("Idempotency-Key"))
        whole = {**body, "model": model} if model else body
        job = idempotency.once(request.user, ROUTE, key=key, body=whole, make=make)
    structlog.contextvars.bind_contextvars(job_id=str(job.id))
    then = reverse("prediction", args=[identifier(job)])
    return _answer(request, job, preference(request), then=then, is_creation=True)


def _maker(
    request: Request, asked: dict[str, Any], *, model: str | None, external_id: str
) -> Callable[..., Job]:
    """Return a function that submits the job; its argument is the fingerprint stored with the external id."""
    deadline = cancel_after(request)

    def make(external_fingerprint: str = "") -> Job:
        reference = model or asked.get("version") or asked.get("model")
        try:
            wanted = JobRequest(
                **asked["input"],
                webhook=asked.get("webhook"),
                webhook_events=asked.get("webhook_events_filter"),
                model=versions.meant(reference) if reference else None,
                cancel_after=deadline,
                external_id=external_id,
                external_fingerprint=external_fingerprint,
                api_key=cast(APIKey, request.auth),
                via=Job.Via.REPLICATE,
                base_url=request.build_absolute_uri("/"),
            )
            return submission.submit(request.user, wanted)
        except GenerationError as error:
            error.parameter = PARAMETERS.get(error.parameter or "", error.parameter)
            raise

    return make


class PredictionList(ListView):
    required_scopes = {"GET": APIKey.Scope.JOBS_READ, "POST": APIKey.Scope.JOBS_WRITE}
    query_class = PredictionQuery
    serializer_class = PredictionSerializer

    @extend_schema(
        operation_id="list_predictions",
        parameters=[PredictionQuery],
        responses={200: PredictionSerializer(many=True)} | responses(400, 401, 403),
    )
    def get(self, request: Request) -> Response:
        """List your jobs as predictions, newest first, whichever interface created them."""
        return self.page(request)

    def rows(self, request: Request, asked: dict[str, Any]) -> QuerySet[Job]:
        rows = owned(request).prefetch_related("images").order_by("-created_at", "-id")
        return filtered(rows, asked)

    @extend_schema(
        operation_id="create_prediction",
        parameters=[*WAITING, IDEMPOTENCY_KEY],
        request=PredictionRequestSerializer,
        responses=CREATED | responses(400, 401, 403, 409, 422, 503),
    )
    def post(self, request: Request) -> Response:
        """Create a prediction. With `Prefer: wait` the answer comes when it has finished, or after 60 seconds."""
        return _create(request, PredictionRequestSerializer)


class ModelPredictions(APIView):
    required_scopes = {"POST": APIKey.Scope.JOBS_WRITE}

    @extend_schema(
        operation_id="create_prediction_of_model",
        parameters=[*WAITING, IDEMPOTENCY_KEY],
        request=ModelPredictionRequestSerializer,
        responses=CREATED | responses(400, 401, 403, 404, 409, 422, 503),
    )
    def post(self, request: Request, owner: str, name: str) -> Response:
        """Create a prediction with a model."""
        return _create(request, ModelPredictionRequestSerializer, model=f"{owner}/{name}")


@method_decorator(unless_unchanged, name="dispatch")
class PredictionDetail(APIView):
    required_scopes = {"GET": APIKey.Scope.JOBS_READ, "PUT": APIKey.Scope.JOBS_WRITE}

    @extend_schema(
        operation_id="read_prediction",
        parameters=[WaitQuery],
        responses={200: PredictionSerializer, 304: None} | responses(400, 401, 403, 404),
    )
    def get(self, request: Request, prediction_id: str) -> Response:
        """Read a prediction by your id or by the job's. With `wait` the answer waits until it has finished."""
        asked = query(WaitQuery, request)
        return _answer(
            request,
            named(request, prediction_id),
            preference(request, wait=asked["wait"]),
            then=request.get_full_path(),
            is_creation=asked_again(request) in ("POST", "PUT"),
        )

    @extend_schema(
        operation_id="put_prediction",
        parameters=[*WAITING],
        request=PredictionRequestSerializer,
        responses=CREATED | responses(400, 401, 403, 404, 409, 422, 503),
    )
    def put(self, request: Request, prediction_id: str) -> Response:
        """Create a prediction under your own id. Repeating the request returns the same prediction."""
        if not is_identifier(prediction_id):
            raise InvalidRequest(
                "Give 1 to 64 ASCII letters, digits, hyphens and underscores.", parameter="id"
            )
        return _create(request, PredictionRequestSerializer, external_id=prediction_id)


class PredictionCancel(APIView):
    required_scopes = {"POST": APIKey.Scope.JOBS_WRITE}

    @extend_schema(
        operation_id="cancel_prediction",
        request=None,
        responses={200: PredictionSerializer} | responses(400, 401, 403, 404),
    )
    def post(self, request: Request, prediction_id: str) -> Response:
        """Cancel a prediction. A finished one is returned unchanged."""
        query(NoQuery, request)
        job_id = jobs.cancel(named(request, prediction_id).id).id
        return render(request, found(request, Q(id=job_id)))
