"""Images for staff: the bytes, small or whole, and the HTML that shows them. Who may see jobs may see their images."""

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from uuid import UUID

from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotModified
from django.shortcuts import get_object_or_404
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from generation.engine.files import THUMBNAIL_PIXELS
from generation.errors import StorageFailed
from generation.images import storage
from generation.images import store as images
from generation.models import Image

# A name in the URL gives always the same bytes; private, since they are for staff only.
CACHE_CONTROL = "private, max-age=31536000, immutable"

KINDS = {
    "queued": "info",
    "running": "primary",
    "succeeded": "success",
    "failed": "danger",
    "lost": "danger",
    "canceled": "warning",
    "released": "info",
    "paused": "warning",
    "over": "info",
    "finished": "success",
    "stopped": "warning",
    "promoted": "success",
    "begun": "success",
    "not begun": "info",
    "encoded": "success",
    "pending": "info",
    "passed": "success",
    "not passed": "danger",
    "non-inferior": "success",
    "inconclusive": "warning",
    "inferior": "danger",
    "stale": "warning",
    "canary": "info",
    "active": "success",
    "candidate": "info",
    "retired": "warning",
    "rejected": "danger",
    "draft": "info",
    "archived": "warning",
    "accepted": "success",
    "refused": "warning",
    "not judged": "info",
    "waits": "info",
    "is read": "primary",
    "read": "success",
    "disabled": "warning",
    "fresh": "success",
    "silent": "danger",
    "revoked": "danger",
    "expired": "warning",
    "delivered": "success",
    "dead": "danger",
}


def badge(text: str, title: str = "") -> SafeString:
    """A status as a coloured label; title is what a pointer over it says."""
    context = {"text": text, "type": KINDS.get(text, ""), "label_title": title}
    return render_to_string("unfold/helpers/label.html", context)


def wording(text: str, below: str) -> SafeString:
    """Two lines of a list: what it is, and a detail in small letters."""
    return format_html(
        '<span class="rt-wording"><strong>{}</strong><span>{}</span></span>', text, below
    )


def nowrap(text: str) -> SafeString:
    return format_html('<span class="rt-nowrap">{}</span>', text)


def when(moment: datetime | None) -> SafeString | str:
    return nowrap(moment.strftime("%Y-%m-%d %H:%M")) if moment else "–"


def link(image_id: UUID, size: str) -> str:
    return reverse("admin:generation_job_image", args=[image_id, size])


def thumbnails(image_ids: Iterable[UUID], *, to: str | None = None) -> SafeString | str:
    """Small images in a row; each leads to `to`, or to its whole picture."""
    return format_html_join(
        "",
        '<a href="{}" class="rt-thumbnail"><img src="{}" alt="" loading="lazy"></a>',
        ((to or link(pk, "full"), link(pk, "thumbnail")) for pk in image_ids),
    )


def row(image_ids: Iterable[UUID], *, to: str | None = None) -> SafeString | str:
    found = thumbnails(image_ids, to=to)
    return format_html('<span class="rt-thumbnails">{}</span>', found) if found else "–"


def respond(request: HttpRequest, image_id: UUID, size: str) -> HttpResponse:
    """The image's file, or a thumbnail of it. The caller has checked who asks."""
    image = get_object_or_404(Image, pk=image_id)
    return respond_file(
        request,
        image.file,
        size,
        title=str(image.id),
        pixels=max(image.width, image.height),
        master=image.master,
    )


def respond_file(
    request: HttpRequest, file: str, size: str, *, title: str, pixels: int, master: str = ""
) -> HttpResponse:
    """A stored file, or a thumbnail of it. title: its name for whoever saves it; pixels: its longest side; master: the
    lossless file, if that is another."""
    if size not in ("full", "thumbnail"):
        raise Http404
    # The content decides the name of a file.
    etag = f'"{Path(file).stem}-{size}"'
    if request.headers.get("If-None-Match") == etag:
        answer: HttpResponse = HttpResponseNotModified()
    else:
        try:
            is_small = size == "thumbnail" and pixels > THUMBNAIL_PIXELS
            name = images.thumbnail(master or file, file) if is_small else file
            content, kind = storage.read(name), Path(name).suffix[1:]
        except StorageFailed as error:
            raise Http404 from error
        answer = HttpResponse(content, content_type=storage.CONTENT_TYPES[kind])
        answer["Content-Disposition"] = f'inline; filename="{title}.{kind}"'
    answer["ETag"] = etag
    answer["Cache-Control"] = CACHE_CONTROL
    return answer
