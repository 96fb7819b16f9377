"""Gallery: the user's images, newest first, including those of jobs created over the API."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from django.db.models import Q
from django.http import Http404, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from rest_framework import serializers

from generation.api.serializers.shapes import Strict
from generation.api.views.jobs import owned
from generation.models import Job, PromptVariant
from generation.page.presentation import Shown, shown
from generation.page.responses import PageView, PersonRequest, query

JOBS = 24  # per page
ENDED = (Job.Status.SUCCEEDED, Job.Status.FAILED)


class GalleryQuery(Strict):
    """before: the id of the last job already shown."""

    variant = serializers.SlugField()
    before = serializers.UUIDField()


@dataclass(frozen=True)
class Gallery:
    """One part of the gallery. variant: filter; more: URL of the next part, "" if there is none."""

    jobs: list[Shown]
    more: str = ""
    variant: PromptVariant | None = None


def gallery(request: Any, *, slug: str | None = None, before: Any = None) -> Gallery:
    """Return a part of the gallery. Raises Http404 for an unknown variant or job."""
    rows = owned(request).filter(status__in=ENDED, purged_at__isnull=True)
    variant = None
    if slug is not None:
        variant = PromptVariant.objects.filter(slug=slug).first()
        if variant is None:
            raise Http404
        rows = rows.filter(variant=variant)
    if before is not None:
        last = owned(request).filter(id=before).values_list("created_at", flat=True).first()
        if last is None:
            raise Http404
        older = Q(created_at__lt=last) | Q(created_at=last, id__lt=before)
        rows = rows.filter(older, created_at__lte=last)
    found = shown(rows.order_by("-created_at", "-id")[: JOBS + 1])
    more = ""
    if len(found) > JOBS:
        asked = {"variant": slug} if slug is not None else {}
        asked["before"] = str(found[JOBS - 1].job.id)
        more = f"{reverse('gallery')}?{urlencode(asked)}"
    return Gallery(found[:JOBS], more, variant)


class GalleryPage(PageView):
    def get(self, request: PersonRequest) -> HttpResponse:
        asked = query(GalleryQuery, request)
        part = gallery(request, slug=asked.get("variant"), before=asked.get("before"))
        name = "tiles" if request.htmx else "gallery"
        return render(request, f"generation/page/{name}.html", {"gallery": part})
