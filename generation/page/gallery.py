"""Gallery: the user's images by job, including those of jobs created over the API."""

from dataclasses import dataclass
from urllib.parse import urlencode
from uuid import UUID

from django.http import Http404, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from rest_framework import serializers

from generation.api.views.jobs import owned
from generation.catalogue import tags
from generation.page.filters import Filter, FilterQuery
from generation.page.presentation import Shown, shown
from generation.page.responses import PageView, PersonRequest, given

JOBS = 24  # per page


class GalleryQuery(FilterQuery):
    """before: the id of the last job already shown."""

    before = serializers.UUIDField()


@dataclass(frozen=True)
class Gallery:
    """One page of the gallery. more: URL of the next page, or ""."""

    jobs: list[Shown]
    filter: Filter
    more: str = ""


def gallery(
    request: PersonRequest, wanted: Filter | None = None, *, last: UUID | None = None
) -> Gallery:
    """Return a page of the gallery. last: id of the last job of the previous page. Raises Http404 if it is unknown."""
    wanted = wanted or Filter()
    rows = wanted.jobs(request)
    if last is not None:
        job = owned(request).filter(id=last).first()
        if job is None:
            raise Http404
        rows = rows.filter(wanted.following(job))
    found = shown(rows[: JOBS + 1], wanted.images(request.user))
    more = ""
    if len(found) > JOBS:
        asked = wanted.values | {"before": str(found[JOBS - 1].job.id)}
        more = f"{reverse('gallery')}?{urlencode(asked)}"
    return Gallery(found[:JOBS], wanted, more)


class GalleryPage(PageView):
    def get(self, request: PersonRequest) -> HttpResponse:
        asked = given(GalleryQuery, request)
        facts: dict[str, object] = {
            "gallery": gallery(request, Filter.of(asked), last=asked.get("before"))
        }
        if request.htmx:
            return render(request, "generation/page/groups.html", facts)
        return render(request, "generation/page/gallery.html", facts | {"tags": tags.groups()})
