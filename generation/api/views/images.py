"""Images: what is known of one, its file and its thumbnail behind signed links.

Where the files lie in an object store, a client is sent on to it (S3_DELIVERY): the bytes do not pass through here.
"""

from typing import Any
from uuid import UUID

import structlog
from django.http import Http404, HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.utils.cache import get_conditional_response
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from generation.api.serializers import FileQuery, ImageDetailSerializer, LinkQuery, NoQuery, query
from generation.api.views.problem_responses import responses
from generation.errors import ImageGone, JobPurged, StorageFailed
from generation.images import links, storage
from generation.images import store as images
from generation.models import APIKey, Image, PurgedImage

REDIRECT_SECONDS = 600  # that a cache may keep; temporary credentials sign for not much longer
SPARE_SECONDS = 60  # that the store's link outlives what a cache keeps


def _image(image_id: UUID, **which: Any) -> Image:
    """Raises JobPurged if it was removed, Http404 if it never was."""
    image = Image.objects.filter(id=image_id, **which).first()
    if image is None:
        if PurgedImage.objects.filter(id=image_id, **which).exists():
            raise JobPurged("Submit the same job again: the seed gives the same picture.")
        raise Http404
    return image


class ImageDetail(APIView):
    required_scopes = {"GET": APIKey.Scope.JOBS_READ}

    @extend_schema(
        operation_id="read_image",
        responses={200: ImageDetailSerializer} | responses(401, 403, 404, 410),
    )
    def get(self, request: Request, image_id: UUID) -> Response:
        """One image, with fresh links to its file and its thumbnail."""
        query(NoQuery, request)
        image = _image(image_id, job__owner_id=request.user.pk)
        structlog.contextvars.bind_contextvars(job_id=str(image.job_id))
        return Response(ImageDetailSerializer(image, context={"request": request}).data)


class AnyAccept(BaseContentNegotiation):
    """A file has one type, whatever the browser's Accept header prefers; errors are JSON."""

    def select_renderer(
        self, request: Request, renderers: Any, format_suffix: str | None = None
    ) -> tuple[BaseRenderer, str]:
        return renderers[0], renderers[0].media_type


class LinkedView(APIView):
    authentication_classes = ()
    permission_classes = ()
    content_negotiation_class = AnyAccept


ELSEWHERE = {302: OpenApiResponse(description="To the object store, where the file is")}


class ImageFile(LinkedView):
    @extend_schema(
        operation_id="read_image_file",
        auth=[],
        parameters=[FileQuery],
        responses={(200, kind): OpenApiTypes.BINARY for kind in storage.CONTENT_TYPES.values()}
        | ELSEWHERE
        | {304: None}
        | responses(400, 403, 404, 410, 503),
    )
    def get(self, request: Request, image_id: UUID) -> HttpResponseBase:
        """The file. The link's signature is the permission; it never changes, so it may be cached for good."""
        asked = query(FileQuery, request)
        seconds = links.check(image_id, asked["expires"], asked["signature"])
        image = _image(image_id)
        save_as = f"{image.id}.{image.format}" if asked["download"] else ""
        return _answer(request, image.file, seconds, etag=image.sha256, save_as=save_as)


class ImageThumbnail(LinkedView):
    @extend_schema(
        operation_id="read_image_thumbnail",
        auth=[],
        parameters=[LinkQuery],
        responses={(200, "image/webp"): OpenApiTypes.BINARY}
        | ELSEWHERE
        | {304: None}
        | responses(400, 403, 404, 410, 503),
    )
    def get(self, request: Request, image_id: UUID) -> HttpResponseBase:
        """The image as a small WebP, at most 256 pixels on its longest side. Its link opens nothing else."""
        asked = query(LinkQuery, request)
        seconds = links.check(image_id, asked["expires"], asked["signature"], to=links.THUMBNAIL)
        image = _image(image_id)
        try:
            name = images.thumbnail(image.master, image.file)
        except StorageFailed as error:
            raise _gone_or(error, image.master, image.file) from error
        return _answer(request, name, seconds, etag=f"{image.sha256}-thumbnail")


def _answer(
    request: Request, name: str, seconds: int, *, etag: str, save_as: str = ""
) -> HttpResponseBase:
    """The stored file; where it is; or that the client's copy is still good. seconds: that its link goes on to work."""
    quoted = f'"{etag}"'
    answer = get_conditional_response(request._request, etag=quoted)
    if answer is None and request.method != "HEAD":
        kept = min(seconds, REDIRECT_SECONDS)
        if place := storage.link(name, seconds=kept + SPARE_SECONDS, save_as=save_as):
            elsewhere = HttpResponseRedirect(place)
            elsewhere["Cache-Control"] = f"public, max-age={kept}"
            return elsewhere
    if answer is None:
        answer = _whole(name, is_wanted=request.method != "HEAD")
        if save_as:
            answer["Content-Disposition"] = f'attachment; filename="{save_as}"'
    answer["ETag"] = quoted
    answer["Cache-Control"] = f"public, max-age={seconds}, immutable"
    answer["X-Content-Type-Options"] = "nosniff"
    return answer


def _whole(name: str, *, is_wanted: bool) -> HttpResponse:
    """is_wanted: else the head alone is made, which needs no bytes."""
    kind = storage.CONTENT_TYPES[name.rpartition(".")[2]]
    if is_wanted:
        try:
            # In one piece: a file is some 100 KB, and every piece is a hop between threads.
            return HttpResponse(storage.read(name), content_type=kind)
        except StorageFailed as error:
            raise _gone_or(error, name) from error
    size = storage.size(name)
    if size is None:
        raise _gone()
    answer = HttpResponse(content_type=kind)
    answer["Content-Length"] = str(size)
    return answer


def _gone_or(error: StorageFailed, *names: str) -> ImageGone | StorageFailed:
    return error if any(storage.exists(name) for name in names) else _gone()


def _gone() -> ImageGone:
    return ImageGone("Submit the same job again: the seed on it gives the same picture.")
