"""Actions on several chosen pictures: compare, download as a zip, mark as favourites or unmark, delete."""

import io
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from uuid import UUID

from django.contrib import messages
from django.http import HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from rest_framework import serializers

from generation.api.serializers.shapes import Strict
from generation.errors import FileMissing, ImageGone, InvalidRequest
from generation.images import links
from generation.images import store as images
from generation.jobs import retention
from generation.models import Favourite, Image
from generation.page.jobs import DELETED
from generation.page.presentation import Picture, with_job
from generation.page.responses import PageView, PersonRequest, read

MAX_PICTURES = 500  # pictures at once
MAX_COMPARED = 6
MAX_BYTES = 64 * 2**20  # of a zip, which is in memory until it is sent

MISSING = "The files of these pictures are no longer stored. Generate them again with their seeds."
COMPARE, DOWNLOAD, FAVOURITE, UNMARK = "compare", "download", "favourite", "unmark"
DELETE, DELETE_NOW = "delete", "delete-now"


class SelectionForm(Strict):
    """do: the action; `delete` shows a confirmation for `delete-now`."""

    mandatory = ("do",)

    do = serializers.ChoiceField([COMPARE, DOWNLOAD, FAVOURITE, UNMARK, DELETE, DELETE_NOW])
    image = serializers.ListField(child=serializers.UUIDField(), max_length=MAX_PICTURES)
    csrfmiddlewaretoken = serializers.CharField()


class Selection(PageView):
    def get(self, request: PersonRequest) -> HttpResponseBase:
        return HttpResponseRedirect(reverse("gallery"))  # after a login

    def post(self, request: PersonRequest) -> HttpResponseBase:
        asked = read(SelectionForm, request.POST)
        rows = Image.objects.filter(id__in=asked.get("image", ()), job__owner_id=request.user.pk)
        chosen = list(with_job(rows).order_by("-job__created_at", "-job__id", "index"))
        if not chosen:
            raise InvalidRequest("No picture is selected. Tick the boxes of some in the gallery.")
        if asked["do"] == COMPARE:
            return _compare(request, chosen)
        if asked["do"] == DOWNLOAD:
            return _zip(chosen)
        if asked["do"] == DELETE:
            facts = {"pictures": [Picture(image) for image in chosen]}
            return render(request, "generation/page/delete.html", facts)
        if asked["do"] == DELETE_NOW:
            count = _delete(chosen)
            messages.success(request, DELETED.get(count, f"{count} pictures were deleted."))
        elif asked["do"] == UNMARK:
            Favourite.objects.filter(owner=request.user, image__in=chosen).delete()
        else:
            Favourite.objects.bulk_create(
                [Favourite(owner=request.user, image=image) for image in chosen],
                ignore_conflicts=True,
            )
        return HttpResponseRedirect(reverse("gallery"))


def _compare(request: PersonRequest, chosen: Sequence[Image]) -> HttpResponse:
    """Show the pictures side by side. Raises InvalidRequest if they are too few or too many."""
    if not 2 <= len(chosen) <= MAX_COMPARED:
        raise InvalidRequest(f"Choose 2 to {MAX_COMPARED} pictures to compare them.")
    facts = {"pictures": [Picture(image) for image in chosen]}
    return render(request, "generation/page/compare.html", facts)


def _delete(chosen: Iterable[Image]) -> int:
    of_job: dict[UUID, list[UUID]] = defaultdict(list)
    for image in chosen:
        of_job[image.job_id].append(image.id)
    return sum(retention.remove_images(job_id, ids) for job_id, ids in of_job.items())


def _zip(chosen: Sequence[Image]) -> HttpResponse:
    """Return the files in a zip.

    Raises InvalidRequest if they are too large, ImageGone if all are missing, StorageFailed if one cannot be read.
    """
    size_bytes = sum(image.size_bytes for image in chosen)
    if size_bytes > MAX_BYTES:
        raise InvalidRequest(
            f"The pictures have {size_bytes // 2**20} MiB. Choose at most {MAX_BYTES // 2**20} MiB at once."
        )
    content = io.BytesIO()
    names: set[str] = set()
    missing: list[str] = []
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:  # already compressed
        for image in chosen:
            try:
                file = images.content(image)
            except FileMissing:
                missing.append(links.file_name(image))
                continue
            entry = zipfile.ZipInfo(_free(links.file_name(image), names), _time(image))
            archive.writestr(entry, file)
        if missing:
            archive.writestr("missing.txt", "\n".join((MISSING, *missing, "")))
    if not names:
        raise ImageGone("Submit the same jobs with their seeds again: they give the same images.")
    response = HttpResponse(content.getvalue(), content_type="application/zip")
    stamp = timezone.now().strftime("%Y-%m-%d")
    response["Content-Disposition"] = f'attachment; filename="retort-{stamp}-{len(names)}.zip"'
    return response


def _free(name: str, taken: set[str]) -> str:
    """Return an unused name, by adding a number if necessary, and add it to `taken`."""
    stem, _, extension = name.rpartition(".")
    free, number = name, 2
    while free in taken:
        free, number = f"{stem}-{number}.{extension}", number + 1
    taken.add(free)
    return free


def _time(image: Image) -> tuple[int, int, int, int, int, int]:
    at = image.created_at
    return at.year, at.month, at.day, at.hour, at.minute, at.second
