"""Views of models in OpenAI's format: the active releases, and the names student and teacher."""

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework.exceptions import NotFound
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from generation.api.openai.errors import responses
from generation.api.openai.serializers import ModelListSerializer, ModelSerializer
from generation.api.serializers.shapes import NoQuery, query
from generation.errors import ReleaseNotAvailable
from generation.models import APIKey, Release
from generation.releases import lifecycle as releases

OWNER = "retort"


def shown(name: str, release: Release) -> dict[str, Any]:
    created = int(release.registered_at.timestamp())
    return {"id": name, "object": "model", "created": created, "owned_by": OWNER}


class ModelList(APIView):
    # Not releases:read: a key that may create images may read the names.
    required_scopes = {"GET": APIKey.Scope.JOBS_READ}

    @extend_schema(
        operation_id="list_models",
        responses={200: ModelListSerializer} | responses(400, 401, 403, 429),
    )
    def get(self, request: Request) -> Response:
        """List the values of `model`: student, teacher, and the active releases."""
        query(NoQuery, request)
        served = releases.in_service()
        kinds = [
            shown(release.kind, release)
            for release in served
            if release.status == Release.Status.ACTIVE
        ]
        named = [shown(release.name, release) for release in served]
        return Response({"object": "list", "data": kinds + named})


class ModelDetail(APIView):
    required_scopes = {"GET": APIKey.Scope.JOBS_READ}

    @extend_schema(
        operation_id="read_model",
        responses={200: ModelSerializer} | responses(400, 401, 403, 404, 429),
    )
    def get(self, request: Request, name: str) -> Response:
        """Read a model, also a release that is not active but that `model` may name."""
        query(NoQuery, request)
        try:
            return Response(shown(name, releases.named(name)))
        except ReleaseNotAvailable as error:
            raise NotFound(error.detail) from error
