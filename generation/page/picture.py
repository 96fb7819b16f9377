"""Page of one picture, shown in a dialog by the page's script: details, and links to its neighbours in the gallery."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import structlog
from django.contrib import messages
from django.http import HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django_htmx.http import trigger_client_event

from generation.api.views import images
from generation.jobs import retention
from generation.models import Favourite, Image, Job
from generation.page import sharing
from generation.page.filters import Filter
from generation.page.presentation import Picture, Shown, pictures, with_job
from generation.page.responses import PageView, PersonRequest


@dataclass(frozen=True)
class Neighbours:
    """The previous and the next picture in the gallery."""

    previous: UUID | None
    next: UUID | None


def neighbours(request: PersonRequest, image: Image, wanted: Filter) -> Neighbours:
    """Return the neighbours within this job, or else in the adjacent jobs that match the filter."""
    own = wanted.images(request.user).filter(job=image.job)
    previous = _id(own.filter(index__lt=image.index).order_by("-index"))
    following = _id(own.filter(index__gt=image.index).order_by("index"))
    jobs = wanted.jobs(request).filter(status=Job.Status.SUCCEEDED)
    if previous is None:
        rows = jobs.filter(wanted.preceding(image.job)).reverse()
        previous = _of_first(rows, wanted, request, ["-index"])
    if following is None:
        rows = jobs.filter(wanted.following(image.job))
        following = _of_first(rows, wanted, request, ["index"])
    return Neighbours(previous, following)


def _of_first(
    jobs: Any, wanted: Filter, request: PersonRequest, order: Sequence[str]
) -> UUID | None:
    job = _id(jobs)
    if job is None:
        return None
    return _id(wanted.images(request.user).filter(job=job).order_by(*order))


def _id(rows: Any) -> UUID | None:
    return rows.values_list("id", flat=True).first()


class PicturePage(PageView):
    def dispatch(self, request: Any, *args: Any, **kwargs: Any) -> HttpResponseBase:
        structlog.contextvars.bind_contextvars(image_id=str(kwargs["image_id"]))
        return super().dispatch(request, *args, **kwargs)

    def get(self, request: PersonRequest, image_id: UUID) -> HttpResponseBase:
        """Redirect to the picture: after a login the browser requests the address of a button with GET."""
        return HttpResponseRedirect(reverse("picture", args=[image_id]))

    def find(self, image_id: UUID, *, among: Any = None) -> Image:
        """Return the user's image. Raises Http404, JobPurged."""
        return images.find(image_id, among=among, job__owner_id=self.request.user.pk)


class ShowPicture(PicturePage):
    def get(self, request: PersonRequest, image_id: UUID) -> HttpResponse:
        image = self.find(image_id, among=with_job(pictures(request.user)))
        wanted = Filter.read(request)
        facts = {
            "picture": Picture(image),
            "shown": Shown(image.job),
            "beside": neighbours(request, image, wanted),
            "filter": wanted,
            "share_url": request.build_absolute_uri(sharing.path(image.id)),
            "share_days": sharing.DAYS,
        }
        name = "picture_part" if request.htmx else "picture"
        return render(request, f"generation/page/{name}.html", facts)


class Mark(PicturePage):
    """Toggle the favourite mark of the picture."""

    def post(self, request: PersonRequest, image_id: UUID) -> HttpResponseBase:
        image = self.find(image_id)
        row, is_new = Favourite.objects.get_or_create(owner=request.user, image=image)
        if not is_new:
            row.delete()
        if not request.htmx:
            return HttpResponseRedirect(reverse("picture", args=[image_id]))
        marked = {"image": str(image_id), "is_favourite": is_new}
        return trigger_client_event(HttpResponse(status=204), "marked", marked)


class DeletePicture(PicturePage):
    def post(self, request: PersonRequest, image_id: UUID) -> HttpResponseBase:
        image = self.find(image_id)
        retention.remove_images(image.job_id, [image.id])
        messages.success(request, "The picture was deleted.")
        return HttpResponseRedirect(reverse("gallery"))
