"""Base view of pages: login, security headers, error pages."""

from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import render
from django.utils.cache import patch_cache_control, patch_vary_headers
from django.views import View
from django_htmx.http import HttpResponseClientRedirect, trigger_client_event
from django_htmx.middleware import HtmxDetails
from rest_framework.request import Request

from generation.api.serializers.shapes import Strict
from generation.api.views import refusals
from generation.api.views.refusals import Refusal
from generation.errors import StorageFailed
from generation.images import storage

STALE = Refusal(403, "permission_denied", "This page is out of date. Reload it and try again.")


class PersonRequest(HttpRequest):
    """Request with the attributes that the middleware sets."""

    htmx: HtmxDetails


class PageView(View):
    """Base view for logged-in users. Errors are shown as pages."""

    def dispatch(self, request: Any, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if not request.user.is_authenticated:
            return protected(self.anonymous(request))
        try:
            response = super().dispatch(request, *args, **kwargs)
        except Exception as error:
            refusal = refusals.of(error, Request(request))
            if refusal is None:
                raise
            response = refused(request, refusal)
        return protected(response)

    def anonymous(self, request: PersonRequest) -> HttpResponseBase:
        to_login = redirect_to_login(_address(request))
        return HttpResponseClientRedirect(to_login.url) if request.htmx else to_login


def _address(request: PersonRequest) -> str:
    """Return the path and query of the page that the user sees."""
    if not request.htmx:
        return request.get_full_path()
    try:
        return request.htmx.current_url_abs_path or "/"
    except ValueError:  # not from a browser
        return "/"


def read(shape: type[Strict], data: Any) -> dict[str, Any]:
    """Return the validated query or form. Raises ValidationError."""
    checked = shape(data=data)
    checked.is_valid(raise_exception=True)
    return checked.validated_data


# --- what a browser may load and keep -------------------------------------------------------------
def protected(response: HttpResponseBase) -> HttpResponseBase:
    """Add a content security policy (own files and images only, nothing inline) and forbid shared caches."""
    response["Content-Security-Policy"] = _policy(image_origin())
    patch_cache_control(response, private=True, no_cache=True)
    patch_vary_headers(response, ("HX-Request",))
    return response


@lru_cache(maxsize=8)
def _policy(store: str) -> str:
    rules = {
        "default-src": "'self'",
        "img-src": f"'self' data: blob: {store}".strip(),
        "object-src": "'none'",
        "base-uri": "'none'",
        "form-action": "'self'",
        "frame-ancestors": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def image_origin() -> str:
    """Return the origin of the object store, if images are fetched from there."""
    return _origin(settings.S3_BUCKET, settings.S3_ENDPOINT_URL, settings.S3_DELIVERY)


@lru_cache(maxsize=8)
def _origin(*_of_settings: str) -> str:
    try:
        place = storage.link("images", seconds=60)
    except StorageFailed:
        return ""
    parts = urlsplit(place or "")
    return f"{parts.scheme}://{parts.netloc}" if parts.netloc else ""


# --- refusals -------------------------------------------------------------------------------------
def refused(request: HttpRequest, refusal: Refusal) -> HttpResponse:
    """Return an error page; for a part of a page only the message, which the script shows."""
    htmx = getattr(request, "htmx", None)
    if htmx:
        response = HttpResponse(refusal.detail, content_type="text/plain", status=refusal.status)
        trigger_client_event(response, "trouble", {"value": refusal.detail})
    else:
        response = render(
            request, "generation/page/refused.html", {"refusal": refusal}, status=refusal.status
        )
    if refusal.retry_after is not None:
        response["Retry-After"] = str(refusal.retry_after)
    return response


def csrf_failed(request: HttpRequest, reason: str = "") -> HttpResponseBase:
    """Django's CSRF_FAILURE_VIEW."""
    return protected(refused(request, STALE))
