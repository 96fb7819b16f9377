"""Images: what is known of one, and its file behind a signed link."""

from typing import Any
from uuid import UUID

import structlog
from django.http import HttpResponse, HttpResponseBase
from django.shortcuts import get_object_or_404
from django.utils.cache import get_conditional_response
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from generation import links, storage
from generation.errors import ImageGone
from generation.models import APIKey, Image
from generation.serializers import ImageDetailSerializer, LinkQuery, NoQuery, query
from generation.views.problems import responses


class ImageDetail(APIView):
    required_scopes = {"GET": APIKey.Scope.JOBS_READ}

    @extend_schema(
        operation_id="read_image", responses={200: ImageDetailSerializer} | responses(401, 403, 404)
    )
    def get(self, request: Request, image_id: UUID) -> Response:
        """One image, with a fresh link to its file."""
        query(NoQuery, request)
        image = get_object_or_404(Image, id=image_id, job__owner_id=request.user.pk)
        structlog.contextvars.bind_contextvars(job_id=str(image.job_id))
        return Response(ImageDetailSerializer(image, context={"request": request}).data)


class AnyAccept(BaseContentNegotiation):
    """A file has one type, whatever the browser's Accept header prefers; errors are JSON."""

    def select_renderer(
        self, request: Request, renderers: Any, format_suffix: str | None = None
    ) -> tuple[BaseRenderer, str]:
        return renderers[0], renderers[0].media_type


class ImageFile(APIView):
    authentication_classes = ()
    permission_classes = ()
    content_negotiation_class = AnyAccept

    @extend_schema(
        operation_id="read_image_file",
        auth=[],
        parameters=[LinkQuery],
        responses={(200, kind): OpenApiTypes.BINARY for kind in storage.CONTENT_TYPES.values()}
        | {304: None}
        | responses(400, 403, 404, 410),
    )
    def get(self, request: Request, image_id: UUID) -> HttpResponseBase:
        """The file. The link's signature is the permission; it never changes, so it may be cached for good."""
        asked = query(LinkQuery, request)
        seconds = links.check(image_id, asked["expires"], asked["signature"])
        image = get_object_or_404(Image, id=image_id)
        etag = f'"{image.sha256}"'
        answer = get_conditional_response(request._request, etag=etag)
        if answer is None:
            if not storage.exists(image.file):
                raise ImageGone("Submit the same job again: the seed on it gives the same picture.")
            # In one piece: a file is some 100 KB, and every piece is a hop between threads.
            answer = HttpResponse(
                storage.read(image.file), content_type=storage.CONTENT_TYPES[image.format]
            )
        answer["ETag"] = etag
        answer["Cache-Control"] = f"public, max-age={seconds}, immutable"
        answer["X-Content-Type-Options"] = "nosniff"
        return answer
