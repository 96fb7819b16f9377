"""Base view of pages: login, security headers, error pages."""

from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import render
from django.urls import reverse
from django.utils.cache import patch_cache_control, patch_vary_headers
from django.views import View
from django_htmx.http import HttpResponseClientRedirect, reswap, trigger_client_event
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

    user: Any  # of a PageView: logged in
    htmx: HtmxDetails


class PageView(View):
    """Base view for logged-in users, or for everybody if is_public. Errors are shown as pages."""

    is_public = False

    def dispatch(self, request: Any, *args: Any, **kwargs: Any) -> HttpResponseBase:
        try:
            # is_authenticated reads the session from the database.
            if not (self.is_public or request.user.is_authenticated):
                return protected(self.anonymous(request))
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
    """Return the path and query of the page in the user's browser."""
    if not request.htmx:
        return request.get_full_path()
    try:
        return request.htmx.current_url_abs_path or "/"
    except ValueError:  # not from a browser
        return "/"


def read(shape: type[Strict], data: Any) -> dict[str, Any]:
    """Return the validated form. Raises ValidationError."""
    checked = shape(data=data)
    checked.is_valid(raise_exception=True)
    return checked.validated_data


def query(shape: type[Strict], request: HttpRequest) -> dict[str, Any]:
    """Return the validated query of a page, ignoring parameters that sites append to links (utm_source)."""
    known = request.GET.copy()
    for name in set(known) - set(shape().fields):
        del known[name]
    return read(shape, known)


def given(shape: type[Strict], request: HttpRequest) -> dict[str, Any]:
    """Return the validated query, without empty form fields."""
    known = request.GET.copy()
    for name in request.GET:
        if name not in shape().fields or not request.GET[name].strip():
            del known[name]
    return read(shape, known)


# --- headers --------------------------------------------------------------------------------------
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
    """Return an error page, or only the message for a fragment request of the script."""
    htmx = getattr(request, "htmx", None)
    if htmx:
        response = HttpResponse(refusal.detail, content_type="text/plain", status=refusal.status)
        trigger_client_event(response, "trouble", {"value": refusal.detail})
        reswap(response, "none")  # the script shows the text of the event
    else:
        facts = {
            "refusal": refusal,
            "in_admin": request.path.startswith(reverse("admin:index")),
            "layout": LAYOUTS[_is_known(request, refusal)],
        }
        response = render(request, "generation/page/refused.html", facts, status=refusal.status)
    if refusal.retry_after is not None:
        response["Retry-After"] = str(refusal.retry_after)
    return response


# Without and with the navigation of a logged-in user.
LAYOUTS = ("generation/page/base.html", "generation/page/person.html")


def _is_known(request: HttpRequest, refusal: Refusal) -> bool:
    """Return whether a user is logged in. After a 5xx error the database is not read, since it may be the cause."""
    return refusal.status < 500 and hasattr(request, "user") and request.user.is_authenticated


def csrf_failed(request: HttpRequest, reason: str = "") -> HttpResponseBase:
    """Django's CSRF_FAILURE_VIEW."""
    return protected(refused(request, STALE))
