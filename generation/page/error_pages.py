"""Django's error handlers: HTML for browsers, problem documents for API clients, Django's own pages in the admin."""

from django.http import HttpRequest, HttpResponseBase
from django.views import defaults

from generation.api.views import problem_responses, refusals
from generation.api.views.refusals import Refusal
from generation.page import responses


def _shown(refusal: Refusal, request: HttpRequest) -> HttpResponseBase:
    """Return HTML for a browser outside of /v1/, otherwise a problem document."""
    if "text/html" in request.headers.get("Accept", "") and not request.path.startswith("/v1/"):
        return responses.protected(responses.refused(request, refusal))
    return problem_responses.plain(refusal, request)


def _in_admin(request: HttpRequest) -> bool:
    return request.path.startswith("/admin")


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    if _in_admin(request):
        return defaults.bad_request(request, exception)
    return _shown(refusals.BAD_REQUEST, request)


def forbidden(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    if _in_admin(request):
        return defaults.permission_denied(request, exception)
    return _shown(refusals.FORBIDDEN, request)


def not_found(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    if _in_admin(request):
        return defaults.page_not_found(request, exception)
    return _shown(refusals.nothing_at(request), request)


def server_error(request: HttpRequest) -> HttpResponseBase:
    if _in_admin(request):
        return defaults.server_error(request)
    return _shown(refusals.INTERNAL, request)
