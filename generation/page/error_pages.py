"""Django's error handlers: HTML for browsers, problem documents for API clients."""

import sys
from dataclasses import replace

from django.conf import settings
from django.core.exceptions import BadRequest, TooManyFieldsSent, TooManyFilesSent
from django.http import HttpRequest, HttpResponseBase, HttpResponsePermanentRedirect
from django.urls import is_valid_path, reverse
from rest_framework.request import Request

from generation.api.views import problem_responses, refusals
from generation.api.views.refusals import Refusal
from generation.page import responses


def _shown(refusal: Refusal, request: HttpRequest) -> HttpResponseBase:
    """Return HTML for a browser outside of /v1/, otherwise a problem document."""
    if _is_browser(request):
        return responses.protected(responses.refused(request, refusal))
    return problem_responses.plain(refusal, request)


def _is_browser(request: HttpRequest) -> bool:
    accepts = "text/html" in request.headers.get("Accept", "") or "HX-Request" in request.headers
    return accepts and not request.path.startswith("/v1/")


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    refusal = refusals.BAD_REQUEST
    # Raised by our code with a text for the client; the texts of Django's other exceptions are internal.
    if isinstance(exception, BadRequest):
        refusal = replace(refusal, detail=str(exception))
    elif isinstance(exception, TooManyFilesSent):
        most = settings.DATA_UPLOAD_MAX_NUMBER_FILES
        refusal = replace(
            refusal, detail=f"A form may send at most {most} files. Send them in parts."
        )
    elif isinstance(exception, TooManyFieldsSent):
        most = settings.DATA_UPLOAD_MAX_NUMBER_FIELDS
        refusal = replace(refusal, detail=f"A request may send at most {most} values. Send fewer.")
    return _shown(refusal, request)


def forbidden(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    return _shown(refusals.FORBIDDEN, request)


def not_found(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    """Answer 404, or redirect to the page without a trailing slash if that exists."""
    path = request.path_info.rstrip("/")
    in_admin = path.startswith(reverse("admin:index"))  # all its URLs end with a slash
    if path != request.path_info and not in_admin and _is_browser(request) and is_valid_path(path):
        query = request.META.get("QUERY_STRING", "")
        return HttpResponsePermanentRedirect(f"{path}?{query}" if query else path)
    return _shown(refusals.nothing_at(request), request)


def server_error(request: HttpRequest) -> HttpResponseBase:
    """Answer an exception outside of views' conversion, such as an unreachable database while the session is read."""
    error = sys.exc_info()[1]
    refusal = refusals.of(error, Request(request)) if isinstance(error, Exception) else None
    return _shown(refusal or refusals.INTERNAL, request)
