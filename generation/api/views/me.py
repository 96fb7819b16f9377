"""View of the request's own API key: account, scopes, limits and usage."""

from typing import Any, cast

from drf_spectacular.utils import extend_schema
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from generation.access import quotas
from generation.api import throttling
from generation.api.serializers.me import MeSerializer
from generation.api.serializers.shapes import NoQuery, query
from generation.api.views.problem_responses import responses
from generation.models import APIKey


class HasKey(BasePermission):
    """Any valid key is allowed."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        return isinstance(request.auth, APIKey)


class Me(APIView):
    permission_classes = (HasKey,)

    @extend_schema(operation_id="read_me", responses={200: MeSerializer} | responses(400, 401, 403))
    def get(self, request: Request) -> Response:
        """Read the limits and the usage of your key and your account.

        Daily usage starts at zero at 00:00 UTC.
        """
        query(NoQuery, request)
        key = cast(APIKey, request.auth)
        standing = throttling.of(request._request)
        answer: dict[str, Any] = {
            "username": key.owner.get_username(),
            "key": key,
            "requests_left": None if standing is None else standing.left,
            "day": quotas.today(),
            "of_key": quotas.standing(key),
            "of_account": quotas.standing_of_person(key),
        }
        return Response(MeSerializer(answer).data)
