"""Images in the admin: files, thumbnails and the HTML that shows them. Access requires the view permission on jobs."""

from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from django.contrib.humanize.templatetags.humanize import naturaltime
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotModified
from django.shortcuts import get_object_or_404
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.formats import date_format
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from unfold.decorators import display

from generation.api.views import problem_responses, refusals
from generation.engine.files import THUMBNAIL_PIXELS
from generation.errors import FileMissing, StorageFailed
from generation.images import storage
from generation.images import store as images
from generation.models import Image

# The content of a URL never changes. Private, since only staff may see it.
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
    "faulty": "danger",
    "over": "info",
    "finished": "success",
    "stopped": "warning",
    "promoted": "success",
    "started": "success",
    "not started": "info",
    "encoded": "success",
    "pending": "info",
    "passed": "success",
    "not passed": "danger",
    "non-inferior": "success",
    "inconclusive": "warning",
    "inferior": "danger",
    "stale": "warning",
    "unknown words": "warning",
    "canary": "info",
    "active": "success",
    "specialist": "success",
    "candidate": "info",
    "retired": "warning",
    "rejected": "danger",
    "draft": "info",
    "archived": "warning",
    "accepted": "success",
    "refused": "warning",
    "not judged": "info",
    "reading": "primary",
    "read": "success",
    "disabled": "warning",
    "alive": "success",
    "not responding": "danger",
    "student": "success",
    "teacher": "info",
    "nobody": "danger",
    "revoked": "danger",
    "expired": "warning",
    "delivered": "success",
    "dead": "danger",
    "failing": "danger",
    "images deleted": "warning",
}


def badge(text: str, title: str = "") -> SafeString:
    """Return a status as a coloured label with a tooltip."""
    context = {"text": text, "type": KINDS.get(text, ""), "label_title": title}
    return render_to_string("unfold/helpers/label.html", context)


def wording(text: str, below: str) -> SafeString:
    """Return a list cell of two lines: a title, and a detail in small letters."""
    return format_html(
        '<span class="rt-wording"><strong>{}</strong><span>{}</span></span>', text, below
    )


def nowrap(text: str) -> SafeString:
    return format_html('<span class="rt-nowrap">{}</span>', text)


def when(moment: datetime | None) -> SafeString | str:
    """Return the time in the format of all pages. The tooltip has the seconds and the age."""
    if moment is None:
        return "–"
    return format_html(
        '<time class="rt-nowrap" datetime="{}" title="{}, {}">{}</time>',
        moment.isoformat(),
        moment.strftime("%H:%M:%S"),
        naturaltime(moment),
        date_format(moment, "DATETIME_FORMAT"),
    )


def when_column(field: str, description: str) -> Callable[[Any, Any], SafeString | str]:
    """Return a ModelAdmin method that displays a time field as a column."""

    @display(description=description, ordering=field)
    def column(self: Any, row: Any) -> SafeString | str:
        return when(getattr(row, field))

    return column


def link(image_id: UUID, size: str) -> str:
    return reverse("admin:generation_job_image", args=[image_id, size])


def thumbnails(image_ids: Iterable[UUID], *, to: str | None = None) -> SafeString | str:
    """Return thumbnails in a row; each links to `to`, or to the full image."""
    return _linked((to or link(pk, "full"), link(pk, "thumbnail")) for pk in image_ids)


def _linked(pairs: Iterable[tuple[str, str]]) -> SafeString | str:
    """Return pictures as links. pairs: URLs of the page and of the picture."""
    return format_html_join(
        "",
        '<a href="{}" class="rt-thumbnail"><img src="{}" alt="Picture" loading="lazy"></a>',
        pairs,
    )


def row(image_ids: Iterable[UUID], *, to: str | None = None) -> SafeString | str:
    return _row(thumbnails(image_ids, to=to))


def row_of_variant(image_id: UUID, *, to: str) -> SafeString | str:
    """Return a variant image that links to `to`."""
    return _row(_linked([(to, reverse("admin:generation_promptvariant_image", args=[image_id]))]))


def _row(found: SafeString | str) -> SafeString | str:
    return format_html('<span class="rt-thumbnails">{}</span>', found) if found else "–"


def respond(request: HttpRequest, image_id: UUID, size: str) -> HttpResponse:
    """Serve the image's file, or a thumbnail of it. The caller checks the permission."""
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
    """Serve a stored file or its thumbnail. title: file name for a download; pixels: longest side of the thumbnail;
    master: the lossless file to make it from, if different."""
    if size not in ("full", "thumbnail"):
        raise Http404
    # Named by content hash.
    etag = f'"{Path(file).stem}-{size}"'
    if request.headers.get("If-None-Match") == etag:
        answer: HttpResponse = HttpResponseNotModified()
    else:
        try:
            is_small = size == "thumbnail" and pixels > THUMBNAIL_PIXELS
            name = images.thumbnail(master or file, file) if is_small else file
            content, kind = storage.read(name), Path(name).suffix[1:]
        except StorageFailed as error:
            return unreadable(request, error)
        answer = HttpResponse(content, content_type=storage.CONTENT_TYPES[kind])
        answer["Content-Disposition"] = f'inline; filename="{title}.{kind}"'
    answer["ETag"] = etag
    answer["Cache-Control"] = CACHE_CONTROL
    return answer


def unreadable(request: HttpRequest, error: StorageFailed) -> HttpResponse:
    """Return 503 while the storage fails. Raises Http404 if the file is no longer stored."""
    if isinstance(error, FileMissing):
        raise Http404 from error
    return problem_responses.plain(refusals.of_ours(error), request)
