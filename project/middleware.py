"""WSGI and Django middleware: sanitising of requests, request metrics, and the request log."""

import re
import time
from collections.abc import Callable
from typing import Any

import structlog
from django.conf import settings
from django.core.exceptions import BadRequest, ValidationError
from django.core.paginator import InvalidPage
from django.db import DataError
from django.http import HttpRequest, HttpResponse, HttpResponsePermanentRedirect
from django.http.response import HttpResponseBase
from django.middleware.common import CommonMiddleware
from django.urls import reverse
from django_structlog.middlewares import RequestMiddleware

from generation.infra import metrics
from generation.realtime.hub import REQUEST_ID, SHELL

log = structlog.get_logger(__name__)

FOR_OPERATORS = ("/health/ready", "/metrics")
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_SHARED = re.compile(r"(?<=^/shared/)[^/]+")
_SESSION_KEY = re.compile(r"[a-z0-9]{1,40}")
# charset=…, and each name*=…, which has its own encoding (RFC 2231).
_CHARSETS = re.compile(r";\s*(charset\s*|[^=;]*\*\s*)=[^;]*", re.IGNORECASE)


def in_utf8(application: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a WSGI application: remove charsets from Content-Type, since all text is UTF-8.

    Django uses them while it builds the request, where an unknown charset, such as zlib, raises an unhandled error.
    """

    def wrapped(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        if "CONTENT_TYPE" in environ:
            environ["CONTENT_TYPE"] = _CHARSETS.sub("", environ["CONTENT_TYPE"])
        return application(environ, start_response)

    return wrapped


def is_session_key(text: str) -> bool:
    """Return whether the text has the form of Django's session keys."""
    return bool(_SESSION_KEY.fullmatch(text))


def session_key(
    get_response: Callable[[HttpRequest], HttpResponseBase],
) -> Callable[[HttpRequest], HttpResponseBase]:
    """Drop a session cookie that Django cannot have made: PostgreSQL would refuse a query with a NUL."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        if not is_session_key(request.COOKIES.get(settings.SESSION_COOKIE_NAME, "")):
            request.COOKIES.pop(settings.SESSION_COOKIE_NAME, None)
        return get_response(request)

    return middleware


class Common(CommonMiddleware):
    """Django's middleware, which refuses hosts that are not in ALLOWED_HOSTS, except at FOR_OPERATORS.

    Prometheus and probes use the address of the process; these answers contain no URL.
    """

    def process_request(self, request: HttpRequest) -> HttpResponsePermanentRedirect | None:
        return None if request.path_info in FOR_OPERATORS else super().process_request(request)


# Raised by Django, unfold and import_export for a value that they do not expect, such as page=0 or an id that is text.
MALFORMED = (ValueError, ValidationError, InvalidPage, DataError)


class AdminValues:
    """Refuse requests to the admin with values that it cannot read, which would be server errors."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        # Django's admin would pass it to PostgreSQL, which has no such text.
        if "%00" in request.META.get("QUERY_STRING", "") and _is_admin(request):
            raise BadRequest("The address has a NUL character (%00). Remove it.")
        return self._get_response(request)

    def process_exception(self, request: HttpRequest, exception: Exception) -> None:
        """Refuse the request if a view raised one of MALFORMED. A bug may raise it too: the log has its traceback."""
        if isinstance(exception, MALFORMED) and _is_admin(request):
            log.exception("admin_request_refused", exc_info=exception)
            raise BadRequest(
                "The admin cannot read a value of this address or form. Go back and correct it. "
                "If every value is right, tell the operator: the log has the reason."
            ) from exception


def _is_admin(request: HttpRequest) -> bool:
    return request.path_info.startswith(reverse("admin:index"))


def request_metrics(
    get_response: Callable[[HttpRequest], HttpResponseBase],
) -> Callable[[HttpRequest], HttpResponseBase]:
    """Count the request by route, method and status, and measure how long Django took."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        began = time.perf_counter()
        response = get_response(request)
        # The shell repeats the requests of waiting clients: each is counted once, when it arrives.
        if not request.META.get("asgi.scope", {}).get(SHELL) or response.status_code >= 400:
            route = _route(request)
            method = request.method if request.method in METHODS else "other"
            seconds = time.perf_counter() - began
            metrics.add(
                metrics.counted(
                    "retort_http_requests_total",
                    route=route,
                    method=str(method),
                    status=str(response.status_code),
                )
                | metrics.observed("retort_http_seconds", seconds, route=route)
            )
        return response

    return middleware


def _route(request: HttpRequest) -> str:
    """Return the URL pattern. A path, with its ids, would make a time series each."""
    match = request.resolver_match
    if match is None:
        return "unknown"
    return "admin" if match.route.startswith("admin/") else f"/{match.route}"


class RequestLog(RequestMiddleware):
    """Log one line per request, without its query, which may contain the secret signature of an image's link.

    The token in the path of a shared picture is masked as well.
    """

    @classmethod
    def bind_ip(cls, request: HttpRequest) -> None:
        """Log the address of the connection, not of a header, which a client can forge."""
        structlog.contextvars.bind_contextvars(ip=request.META.get("REMOTE_ADDR"))

    def prepare(self, request: HttpRequest) -> None:
        super().prepare(request)
        if request_id := request.META.get("asgi.scope", {}).get(REQUEST_ID):
            structlog.contextvars.bind_contextvars(request_id=request_id)

    def handle_response(self, request: HttpRequest, response: HttpResponse) -> None:
        # The shell repeats the request of a waiting client, which is logged already.
        if request.META.get("asgi.scope", {}).get(SHELL) and response.status_code < 400:
            log.debug(
                "request_finished", code=response.status_code, request=self.format_request(request)
            )
            structlog.contextvars.clear_contextvars()
            return
        super().handle_response(request, response)

    @staticmethod
    def format_request(request: HttpRequest) -> str:
        return f"{request.method} {_SHARED.sub('…', request.path)}"
