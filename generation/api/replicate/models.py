"""Views of models and versions in Replicate's format."""

from django.http import Http404
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from generation.api.replicate import versions
from generation.api.replicate.model_serializers import ReplicateModelSerializer, VersionSerializer
from generation.api.serializers.shapes import NoQuery, query
from generation.api.views.problem_responses import responses
from generation.errors import ReleaseNotAvailable
from generation.models import APIKey


class ModelDetail(APIView):
    # Not releases:read: a key that may create predictions may read the models.
    required_scopes = {"GET": APIKey.Scope.JOBS_READ}

    @extend_schema(
        operation_id="read_replicate_model",
        responses={200: ReplicateModelSerializer} | responses(400, 401, 403, 404),
    )
    def get(self, request: Request, owner: str, name: str) -> Response:
        """Read a model, with its latest version."""
        query(NoQuery, request)
        try:
            release = versions.model_of(f"{owner}/{name}")
        except ReleaseNotAvailable as error:
            raise Http404 from error
        context = {"request": request, "name": name}
        return Response(ReplicateModelSerializer(release, context=context).data)


class VersionDetail(APIView):
    required_scopes = {"GET": APIKey.Scope.JOBS_READ}

    @extend_schema(
        operation_id="read_replicate_version",
        responses={200: VersionSerializer} | responses(400, 401, 403, 404),
    )
    def get(self, request: Request, owner: str, name: str, version: str) -> Response:
        """Read a version of a model, with the schemas of its input and output."""
        query(NoQuery, request)
        try:
            release = versions.find(version, model=f"{owner}/{name}")
        except ReleaseNotAvailable as error:
            raise Http404 from error
        return Response(VersionSerializer(release).data)
