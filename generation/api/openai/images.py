"""View of OpenAI's image route: a job whose client waits for one answer or for a stream of events."""

import re
import time
from typing import Any, cast
from urllib.parse import urlencode

import structlog
from django.conf import settings
from django.http import HttpResponseBase
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework.exceptions import MethodNotAllowed
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from generation.api.openai import errors
from generation.api.openai.serializers import (
    FACTS,
    CompletedEventSerializer,
    GeneratedImagesSerializer,
    ImagesAnswerQuery,
    ImagesRequestSerializer,
)
from generation.api.serializers.events import SentEventSerializer
from generation.api.serializers.shapes import NoQuery, query
from generation.api.views import problem_responses, refusals, streams
from generation.api.views.jobs import one
from generation.api.views.refusals import Refusal
from generation.api.views.waiting import IDEMPOTENCY_KEY, POLL_SECONDS, asked_again, hold, holds
from generation.errors import (
    CANCELED_BY_CLIENT,
    DEADLINE_BEFORE_START,
    DEADLINE_WHILE_RUNNING,
    JobPurged,
    JobUnfinished,
)
from generation.infra import events
from generation.jobs import idempotency, submission
from generation.jobs.job_request import JobRequest
from generation.models import APIKey, Job
from generation.realtime.hub import SETTLED
from generation.realtime.sse import CONTENT_TYPE

ROUTE = "openai"  # for idempotency keys
# OpenAI's clients time out after 600 seconds, and retry after at most 120.
RETRY_SECONDS = 900
RETRY_COUNT = "x-stainless-retry-count"  # header of OpenAI's clients, 0 in the first request
B64_JSON = "b64_json"
# Errors of a job that are not internal errors.
STATUSES = {CANCELED_BY_CLIENT: 409, DEADLINE_BEFORE_START: 504, DEADLINE_WHILE_RUNNING: 504}


class ImageGenerations(APIView):
    # The ASGI shell sends a GET for the answer to a POST of the same client.
    required_scopes = {"GET": APIKey.Scope.JOBS_WRITE, "POST": APIKey.Scope.JOBS_WRITE}

    @property
    def allowed_methods(self) -> list[str]:
        return ["POST", "OPTIONS"]

    @extend_schema(
        operation_id="create_images",
        parameters=[IDEMPOTENCY_KEY],
        request=ImagesRequestSerializer,
        responses={
            (200, "application/json"): GeneratedImagesSerializer,
            (200, CONTENT_TYPE): OpenApiResponse(
                SentEventSerializer,
                "With stream: events image_generation.partial_image and image_generation.completed",
            ),
        }
        | errors.responses(400, 401, 403, 409, 410, 413, 415, 429, 500, 503, 504),
    )
    def post(self, request: Request) -> HttpResponseBase:
        """Generate images. The answer comes when they are ready."""
        query(NoQuery, request)
        asked = ImagesRequestSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        parameters = asked.validated_data
        job = self._job(request, parameters)
        if parameters.get("stream"):
            return self._watched(request, job, parameters.get("partial_images", 0))
        return self._waited(request, job, parameters.get("response_format", B64_JSON))

    @extend_schema(exclude=True)
    def get(self, request: Request) -> HttpResponseBase:
        """Return the answer, on a request of the ASGI shell."""
        if asked_again(request) != "POST":
            raise MethodNotAllowed("GET")
        asked = query(ImagesAnswerQuery, request)
        job = one(request, asked["job"])
        if "partial_images" in asked:
            return self._watched(request, job, asked["partial_images"])
        return self._waited(request, job, asked["response_format"])

    def _job(self, request: Request, parameters: dict[str, Any]) -> Job:
        def make() -> Job:
            size = parameters.get("size")
            wanted = JobRequest(
                variant=parameters.get("variant"),
                text=parameters.get("prompt") or None,
                match=parameters.get("match"),
                n=parameters.get("n", 1),
                seed=parameters.get("seed"),
                size=None if size == "auto" else size,
                output_format=parameters.get("output_format", Job.Format.PNG),
                model=parameters.get("model"),
                api_key=cast(APIKey, request.auth),
                via=Job.Via.OPENAI,
                base_url=request.build_absolute_uri("/"),
            )
            return submission.submit(request.user, wanted)

        owner, body = request.user, request.data
        key = idempotency.key_of(request.headers.get("Idempotency-Key"))
        if key is not None:
            return idempotency.once(owner, ROUTE, key=key, body=body, make=make)
        first = None
        if _is_retry(request):
            first = idempotency.by_body(owner, ROUTE, body, seconds=RETRY_SECONDS)
        elif RETRY_COUNT in request.headers:
            # If this request is refused, its retry must not get the job of an earlier one.
            idempotency.forget_body(owner, ROUTE, body)
        job = first or make()
        if RETRY_COUNT in request.headers:
            idempotency.remember_body(owner, ROUTE, body, job)
        return job

    def _waited(self, request: Request, job: Job, response_format: str) -> Response:
        """Answer with the images or the error; after the time limit, with the message that the job continues."""
        structlog.contextvars.bind_contextvars(job_id=str(job.id))
        if not job.is_terminal:
            return hold(
                request,
                _unfinished(request),
                job,
                seconds=settings.OPENAI_WAIT_SECONDS,
                then=_then(request, job, response_format=response_format),
            )
        if job.status != Job.Status.SUCCEEDED:
            return _failed(request, job)
        _check_kept(job)
        context = {"request": request, "response_format": response_format}
        shown = GeneratedImagesSerializer(job, context=context).data
        return Response(shown, headers=errors.identity(str(job.id)))

    def _watched(self, request: Request, job: Job, partial_images: int) -> HttpResponseBase:
        """Answer with events: partial images, then the completed one, or an error."""
        structlog.contextvars.bind_contextvars(job_id=str(job.id))
        watched, previews = events.NO_ID, partial_images > 0
        if not job.is_terminal:
            if not holds(request, job, seconds=1):
                return _unfinished(request)
            watched = events.watch(job.id, previews=previews)
            job = one(request, job.id)
        if job.status in (Job.Status.FAILED, Job.Status.CANCELED):
            return _failed(request, job)
        shown: Any = {}
        if job.is_terminal:
            _check_kept(job)
            shown = CompletedEventSerializer(job).data
        facts = FACTS | {
            "created_at": int(time.time()),
            "size": f"{job.width}x{job.height}",
            "output_format": job.output_format,
        }
        response = streams.answer(
            request,
            shown,
            job=job,
            watched=watched,
            then=_then(request, job, partial_images=partial_images),
            style="openai",
            options={"partial_images": partial_images, "facts": facts},
            previews=previews,
        )
        for name, value in errors.identity(str(job.id)).items():
            response[name] = value
        return response


def _is_retry(request: Request) -> bool:
    """Return whether the request is a retry by one of OpenAI's clients."""
    return bool(re.fullmatch(r"0*[1-9]\d{0,3}", request.headers.get(RETRY_COUNT, "")))


def _then(request: Request, job: Job, **asked: Any) -> str:
    return f"{request.path}?{urlencode({'job': job.id, **asked})}"


def _unfinished(request: Request) -> Response:
    error = JobUnfinished(
        "The job continues. Send the same request again, or read the job whose id is in X-Job-Id.",
        retry_after=POLL_SECONDS,
    )
    return problem_responses.answer(refusals.of_ours(error), request)


def _failed(request: Request, job: Job) -> Response:
    """Answer with the job's error. Attempts are exhausted, so clients must not retry."""
    code = job.error_code or CANCELED_BY_CLIENT
    detail = job.error_detail or "The job was canceled."
    refusal = Refusal(STATUSES.get(code, 500), code, detail)
    response = problem_responses.answer(refusal, request)
    if asked_again(request):
        response[SETTLED] = "1"
    return response


def _check_kept(job: Job) -> None:
    if job.purged_at is not None:
        raise JobPurged("Send the same request again; if it had an Idempotency-Key, use a new one.")
