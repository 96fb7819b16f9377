"""Every refusal over HTTP, as RFC 9457 application/problem+json. The one place where errors become answers.

`code` is the stable word for programs; a failed job carries the same words in `job.error.code`.
"""

import json
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import structlog
from django.conf import settings
from django.core.exceptions import PermissionDenied, RequestDataTooBig
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse
from django.views import defaults
from drf_spectacular.utils import OpenApiResponse
from rest_framework import exceptions
from rest_framework.response import Response

from generation.errors import GenerationError
from generation.serializers import ProblemSerializer

log = structlog.get_logger(__name__)

CONTENT_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 2


def responses(*statuses: int) -> dict[Any, Any]:
    """For the schema: these statuses answer with a problem."""
    return {
        (status, CONTENT_TYPE): OpenApiResponse(ProblemSerializer, HTTPStatus(status).phrase)
        for status in statuses
    }


def _problem(
    status: int, code: str, detail: str, *, title: str = "", **members: Any
) -> dict[str, Any]:
    body = {
        "type": "about:blank",
        "title": title or HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "code": code,
        "retryable": False,
        **members,
    }
    request_id = structlog.contextvars.get_contextvars().get("request_id")
    if request_id:
        body["instance"] = f"urn:uuid:{request_id}"
    return body


# --- from the API's views -------------------------------------------------------------------------
def handle(error: Exception, context: dict[str, Any]) -> Response | None:
    """REST framework's EXCEPTION_HANDLER. None: nobody anticipated it, Django logs it and `server_error` answers."""
    headers: dict[str, str] = {}
    if isinstance(error, Http404):
        error = exceptions.NotFound()
    elif isinstance(error, PermissionDenied):
        error = exceptions.PermissionDenied()
    if isinstance(error, GenerationError):
        body = _of_ours(error)
    elif isinstance(error, exceptions.ValidationError):
        body = _of_validation(error, in_body=context["request"].method != "GET")
    elif isinstance(error, exceptions.NotAuthenticated):
        body = _problem(401, "not_authenticated", "Send an API key as: Authorization: Bearer rt_…")
        headers["WWW-Authenticate"] = error.auth_header  # type: ignore[attr-defined]
    elif isinstance(error, exceptions.APIException):
        body = _problem(error.status_code, str(error.get_codes()), str(error.detail))
        if getattr(error, "auth_header", None):
            headers["WWW-Authenticate"] = error.auth_header  # type: ignore[attr-defined]
    elif isinstance(error, RequestDataTooBig):
        body = _problem(
            413, "body_too_large", f"Send at most {settings.DATA_UPLOAD_MAX_MEMORY_SIZE} bytes."
        )
    elif isinstance(error, OperationalError | InterfaceError):
        log.warning("database_away", error=str(error).strip())
        body = _problem(
            503, "database_unavailable", "The database does not answer.", retryable=True
        )
    else:
        return None
    if body["retryable"]:
        headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return Response(body, status=body["status"], headers=headers, content_type=CONTENT_TYPE)


def _of_ours(error: GenerationError) -> dict[str, Any]:
    members: dict[str, Any] = {"title": error.title, "retryable": error.retryable}
    if error.parameter:
        members["parameter"] = error.parameter
    return _problem(error.status, error.code, error.detail, **members)


def _of_validation(error: exceptions.ValidationError, *, in_body: bool) -> dict[str, Any]:
    errors: list[dict[str, str]] = []
    for path, detail in _flatten(error.detail, ()):
        entry = {"detail": str(detail), "code": detail.code or "invalid"}
        if path:
            entry["parameter"] = ".".join(path)
        if path and in_body:
            entry["pointer"] = "#/" + "/".join(path)
        errors.append(entry)
    said = "; ".join(
        f"{entry['parameter']}: {entry['detail']}" if "parameter" in entry else entry["detail"]
        for entry in errors
    )
    return _problem(400, "invalid_request", said, title="The request is not valid", errors=errors)


def _flatten(
    detail: Any, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], exceptions.ErrorDetail]]:
    if isinstance(detail, dict):
        for name, value in detail.items():
            yield from _flatten(value, path if name == "non_field_errors" else (*path, str(name)))
    elif isinstance(detail, list):
        for value in detail:
            yield from _flatten(value, path)
    else:
        yield path, detail


# --- from Django, before or after a view ----------------------------------------------------------
def _answer(body: dict[str, Any]) -> HttpResponse:
    return HttpResponse(json.dumps(body), status=body["status"], content_type=CONTENT_TYPE)


def _for_people(request: HttpRequest) -> bool:
    return request.path.startswith("/admin")


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    if _for_people(request):
        return defaults.bad_request(request, exception)
    return _answer(_problem(400, "bad_request", "The request cannot be understood."))


def forbidden(request: HttpRequest, exception: Exception) -> HttpResponse:
    if _for_people(request):
        return defaults.permission_denied(request, exception)
    return _answer(_problem(403, "permission_denied", "This is not allowed."))


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    if _for_people(request):
        return defaults.page_not_found(request, exception)
    return _answer(_problem(404, "not_found", f"There is nothing at {request.path}."))


def server_error(request: HttpRequest) -> HttpResponse:
    if _for_people(request):
        return defaults.server_error(request)
    return _answer(_problem(500, "internal_error", "This is our fault, and it was logged."))
