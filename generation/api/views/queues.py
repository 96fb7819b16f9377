"""Views of queues of jobs: list, read, pause, resume."""

from collections.abc import Callable
from functools import partial

from django.http import Http404
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from generation.api.serializers.queues import PauseSerializer, QueueStateSerializer
from generation.api.serializers.shapes import NoQuery, query
from generation.api.views.problem_responses import responses
from generation.jobs import pausing
from generation.jobs.pausing import QueueState
from generation.models import APIKey, Queue

SCOPE = APIKey.Scope.QUEUES_WRITE


def _shown(act: Callable[[], QueueState]) -> Response:
    """Call `act` and return its state as a response. Raises Http404."""
    try:
        return Response(QueueStateSerializer(act()).data)
    except Queue.DoesNotExist as error:
        raise Http404 from error


class QueueList(APIView):
    required_scopes = {"GET": SCOPE}

    @extend_schema(
        operation_id="list_queues",
        responses={200: QueueStateSerializer(many=True)} | responses(400, 401, 403),
    )
    def get(self, request: Request) -> Response:
        """List the queues of jobs."""
        query(NoQuery, request)
        return Response(QueueStateSerializer(pausing.states(), many=True).data)


class QueueDetail(APIView):
    required_scopes = {"GET": SCOPE}

    @extend_schema(
        operation_id="read_queue",
        responses={200: QueueStateSerializer} | responses(400, 401, 403, 404),
    )
    def get(self, request: Request, name: str) -> Response:
        """Read the state of a queue."""
        query(NoQuery, request)
        return _shown(partial(pausing.state, name))


class QueuePause(APIView):
    required_scopes = {"POST": SCOPE}

    @extend_schema(
        operation_id="pause_queue",
        request=PauseSerializer,
        responses={200: QueueStateSerializer} | responses(400, 401, 403, 404),
    )
    def post(self, request: Request, name: str) -> Response:
        """Pause a queue: new jobs are accepted and wait. Running jobs finish."""
        query(NoQuery, request)
        asked = PauseSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        by, reason = request.user.get_username(), asked.validated_data["reason"]
        return _shown(partial(pausing.pause, name, by=by, reason=reason))


class QueueResume(APIView):
    required_scopes = {"POST": SCOPE}

    @extend_schema(
        operation_id="resume_queue",
        request=None,
        responses={200: QueueStateSerializer} | responses(400, 401, 403, 404),
    )
    def post(self, request: Request, name: str) -> Response:
        """Resume a queue. One that is not paused is returned unchanged."""
        query(NoQuery, request)
        return _shown(partial(pausing.resume, name))
