"""Routes of server-sent events: of a job, and of a prediction."""

from uuid import UUID

import structlog
from django.http import HttpResponse, HttpResponseBase
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework.request import Request
from rest_framework.views import APIView

from generation.api.replicate import predictions
from generation.api.serializers.events import EVENT_ID, EventsQuery, SentEventSerializer
from generation.api.serializers.shapes import NoQuery, query
from generation.api.views.images import AnyAccept
from generation.api.views.jobs import one, render
from generation.api.views.problem_responses import responses
from generation.api.views.streams import answer
from generation.api.views.waiting import asked_again
from generation.errors import InvalidRequest
from generation.infra import events
from generation.models import APIKey
from generation.realtime.sse import CONTENT_TYPE, FINAL_SUFFIX

KINDS = ("status", "progress", "preview")


class JobEvents(APIView):
    required_scopes = {"GET": APIKey.Scope.JOBS_READ}
    content_negotiation_class = AnyAccept

    @extend_schema(
        operation_id="watch_job",
        parameters=[
            EventsQuery,
            OpenApiParameter(
                "Last-Event-ID",
                {"type": "string", "pattern": f"^{EVENT_ID.pattern}$"},
                location=OpenApiParameter.HEADER,
                description="Id of the last event received; the later ones are sent.",
            ),
        ],
        responses={
            (200, CONTENT_TYPE): OpenApiResponse(
                SentEventSerializer,
                "Events: snapshot, then status, progress and preview; at the end the job, named by its last status",
            ),
            204: OpenApiResponse(None, "There are no more events"),
        }
        | responses(400, 401, 403, 404, 410),
    )
    def get(self, request: Request, job_id: UUID) -> HttpResponseBase:
        """Watch a job: its current state, changes, and its end. Heartbeats are comments."""
        structlog.contextvars.bind_contextvars(job_id=str(job_id))
        asked = query(EventsQuery, request)
        is_again = bool(asked_again(request))
        # A reconnecting browser sends this header, to the URL of its first request.
        after = "" if is_again else _last_event_id(request) or asked["last_event_id"]
        job = one(request, job_id)
        if after.endswith(FINAL_SUFFIX):
            if job.is_terminal:
                return HttpResponse(status=204)  # browsers then stop reconnecting
            after = ""  # the job was retried
        watched = events.NO_ID
        if not job.is_terminal:
            watched = events.watch(job.id, previews=asked["previews"])
            job = one(request, job_id)
        return answer(
            request,
            render(request, job).data,
            job=job,
            watched=watched,
            then=request.get_full_path(),
            style="job",
            options={"kinds": [kind for kind in KINDS if kind != "preview" or asked["previews"]]},
            previews=asked["previews"],
            after=after,
        )


class PredictionStream(APIView):
    required_scopes = {"GET": APIKey.Scope.JOBS_READ}
    content_negotiation_class = AnyAccept

    @extend_schema(
        operation_id="watch_prediction",
        responses={
            (200, CONTENT_TYPE): OpenApiResponse(
                SentEventSerializer, "Events: logs, output for each link, and done; or error"
            ),
        }
        | responses(400, 401, 403, 404),
    )
    def get(self, request: Request, prediction_id: str) -> HttpResponseBase:
        """Watch a prediction in Replicate's format. `/v1/jobs/{job}/events` has more details."""
        query(NoQuery, request)
        job = predictions.named(request, prediction_id)
        watched = events.NO_ID
        if not job.is_terminal:
            watched = events.watch(job.id, previews=False)
            job = predictions.named(request, prediction_id)
        return answer(
            request,
            predictions.render(request, job).data,
            job=job,
            watched=watched,
            then=request.get_full_path(),
            style="replicate",
            options={"steps": job.num_inference_steps},
            previews=False,
        )


def _last_event_id(request: Request) -> str:
    header = request.headers.get("Last-Event-ID", "")
    if header and not EVENT_ID.fullmatch(header):
        raise InvalidRequest("Give the id of an event of this job.", parameter="Last-Event-ID")
    return header
