"""Views of images: metadata, and file and thumbnail behind signed links.

With an object store and S3_DELIVERY, file requests are redirected to the store.
"""

from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import UUID

import structlog
from django.db.models import QuerySet
from django.http import Http404, HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.utils.cache import get_conditional_response
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from generation.api.serializers.images import FileQuery, ImageDetailSerializer, LinkQuery
from generation.api.serializers.shapes import NoQuery, query
from generation.api.views.problem_responses import responses
from generation.errors import JobPurged
from generation.images import links, storage
from generation.images import store as images
from generation.jobs import variant_images
from generation.models import APIKey, Image, PurgedImage, VariantImage

REDIRECT_SECONDS = 600  # cache time of a redirect; temporary credentials sign little longer
SPARE_SECONDS = 60  # how much longer the store's link is valid than the cached redirect
ABOUT_THE_FILE = (200, 206, 304)  # status codes that caches may keep


def find(image_id: UUID, *, among: QuerySet[Image] | None = None, **which: Any) -> Image:
    """Return the image. Raises JobPurged if it was deleted, Http404 if it never existed.

    among: rows to search, with any select_related; None = all.
    """
    rows = Image.objects.all() if among is None else among
    image = rows.filter(id=image_id, **which).first()
    if image is None:
        if PurgedImage.objects.filter(id=image_id, **which).exists():
            raise JobPurged("Submit the same job with its seed again: it gives the same image.")
        raise Http404
    return image


class ImageDetail(APIView):
    required_scopes = {"GET": APIKey.Scope.JOBS_READ}

    @extend_schema(
        operation_id="read_image",
        responses={200: ImageDetailSerializer} | responses(401, 403, 404, 410),
    )
    def get(self, request: Request, image_id: UUID) -> Response:
        """Read an image, with new links to its file and thumbnail."""
        query(NoQuery, request)
        image = find(image_id, job__owner_id=request.user.pk)
        structlog.contextvars.bind_contextvars(job_id=str(image.job_id))
        return Response(ImageDetailSerializer(image, context={"request": request}).data)


class AnyAccept(BaseContentNegotiation):
    """Content negotiation that ignores Accept: a file has one type, and errors are JSON."""

    def select_renderer(
        self, request: Request, renderers: Any, format_suffix: str | None = None
    ) -> tuple[BaseRenderer, str]:
        return renderers[0], renderers[0].media_type


class LinkedView(APIView):
    authentication_classes = ()
    permission_classes = ()
    content_negotiation_class = AnyAccept


def _answers(*types: str) -> dict[Any, Any]:
    """Return the responses of a route that sends a file of one of these media types by a signed link."""
    elsewhere = {302: OpenApiResponse(description="Redirect to the object store")}
    files = dict.fromkeys(((200, kind) for kind in types), OpenApiTypes.BINARY)
    return files | elsewhere | {304: None} | responses(400, 403, 404, 410, 503)


class ImageFile(LinkedView):
    @extend_schema(
        operation_id="read_image_file",
        auth=[],
        parameters=[FileQuery],
        responses=_answers(*storage.CONTENT_TYPES.values()),
    )
    def get(self, request: Request, image_id: UUID) -> HttpResponseBase:
        """Read the file of an image. The signed link is the permission; the file never changes and can be cached."""
        asked = query(FileQuery, request)
        seconds = links.check(image_id, asked["expires"], asked["signature"])
        image = find(image_id)
        save_as = links.file_name(image) if asked["download"] else ""
        read = partial(images.content, image)
        return _answer(request, image.file, seconds, read, etag=image.sha256, save_as=save_as)


class ImageThumbnail(LinkedView):
    @extend_schema(
        operation_id="read_image_thumbnail",
        auth=[],
        parameters=[LinkQuery],
        responses=_answers("image/webp"),
    )
    def get(self, request: Request, image_id: UUID) -> HttpResponseBase:
        """Read the thumbnail, a WebP of at most 256 pixels on its longest side. Its link is not valid for the file."""
        asked = query(LinkQuery, request)
        seconds = links.check(image_id, asked["expires"], asked["signature"], to=links.THUMBNAIL)
        image = find(image_id)
        name = images.thumbnail(image.master, image.file)
        read = partial(storage.read, name)
        return _answer(request, name, seconds, read, etag=f"{image.sha256}-thumbnail")


class VariantImageFile(LinkedView):
    @extend_schema(
        operation_id="read_variant_image",
        auth=[],
        parameters=[LinkQuery],
        responses=_answers("image/webp"),
    )
    def get(self, request: Request, image_id: UUID) -> HttpResponseBase:
        """Read the image of a prompt variant that was made in advance for everybody: a WebP."""
        asked = query(LinkQuery, request)
        seconds = links.check(
            image_id, asked["expires"], asked["signature"], to=links.VARIANT_IMAGE
        )
        image = get_object_or_404(VariantImage, pk=image_id)
        read = partial(variant_images.content, image)
        return _answer(request, image.file, seconds, read, etag=image.sha256)


def _answer(
    request: Request,
    name: str,
    seconds: int,
    read: Callable[[], bytes],
    *,
    etag: str,
    save_as: str = "",
) -> HttpResponseBase:
    """Answer with the stored file, a redirect, 304 or 412. seconds: how long the link remains valid."""
    quoted = f'"{etag}"'
    answer = get_conditional_response(request._request, etag=quoted)
    if answer is None and request.method != "HEAD":
        kept = min(seconds, REDIRECT_SECONDS)
        if place := storage.link(name, seconds=kept + SPARE_SECONDS, save_as=save_as):
            elsewhere = HttpResponseRedirect(place)
            elsewhere["Cache-Control"] = f"public, max-age={kept}"
            return elsewhere
    if answer is None:
        answer = _whole(name, read if request.method != "HEAD" else None)
        if save_as:
            answer["Content-Disposition"] = f'attachment; filename="{save_as}"'
    answer["X-Content-Type-Options"] = "nosniff"
    if answer.status_code in ABOUT_THE_FILE:
        answer["ETag"] = quoted
        answer["Cache-Control"] = f"public, max-age={seconds}, immutable"
    else:
        answer["Cache-Control"] = "no-store"
    return answer


def _whole(name: str, read: Callable[[], bytes] | None) -> HttpResponse:
    """Return the file. Without `read` return only the headers."""
    kind = storage.CONTENT_TYPES[name.rpartition(".")[2]]
    if read is not None:
        # Not streamed: a file has about 100 KB, and each chunk would switch threads.
        return HttpResponse(read(), content_type=kind)
    size = storage.size(name)
    if size is None:
        raise storage.missing(name)
    answer = HttpResponse(content_type=kind)
    answer["Content-Length"] = str(size)
    return answer
