"""Signed links to one picture for people without an account, valid for DAYS while the picture exists."""

from datetime import timedelta
from typing import Any
from uuid import UUID

from django.core.signing import BadSignature, SignatureExpired, TimestampSigner
from django.http import HttpResponse, HttpResponseBase
from django.shortcuts import render
from django.urls import reverse

from generation.api.views import images
from generation.errors import LinkExpired, LinkInvalid
from generation.models import Image
from generation.page.presentation import Picture, Shown, with_job
from generation.page.responses import PageView

DAYS = 30
SALT = "retort.share"


def path(image_id: UUID) -> str:
    """Return the path of the public page of the image."""
    return reverse("shared", args=[TimestampSigner(salt=SALT).sign(image_id.hex)])


def read(token: str) -> UUID:
    """Return the id of the image. Raises LinkInvalid and LinkExpired."""
    try:
        return UUID(TimestampSigner(salt=SALT).unsign(token, max_age=timedelta(days=DAYS)))
    except SignatureExpired as error:
        raise LinkExpired(f"It was valid for {DAYS} days. Ask its sender for a new one.") from error
    except BadSignature as error:
        raise LinkInvalid("The link is incomplete. Ask its sender for the whole link.") from error


class Shared(PageView):
    """Public page of a picture for everybody who has the link."""

    is_public = True

    def dispatch(self, request: Any, *args: Any, **kwargs: Any) -> HttpResponseBase:
        response = super().dispatch(request, *args, **kwargs)
        response["X-Robots-Tag"] = "noindex"
        return response

    def get(self, request: Any, token: str) -> HttpResponse:
        image = images.find(read(token), among=with_job(Image.objects.all()))
        facts = {"picture": Picture(image), "shown": Shown(image.job)}
        return render(request, "generation/page/shared.html", facts)
