"""Conversion of exceptions to `Refusal`, which is independent of the response format."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import structlog
from django.conf import settings
from django.core.exceptions import PermissionDenied, RequestDataTooBig
from django.http import Http404, HttpRequest
from rest_framework import exceptions
from rest_framework.request import Request

from generation.api import problems
from generation.errors import INTERNAL_ERROR, FileMissing, GenerationError, ImageGone
from generation.infra import database

log = structlog.get_logger(__name__)

RETRY_AFTER_SECONDS = 2  # default
MAX_SECONDS = 120  # OpenAI's clients ignore longer waits
MAX_ERRORS = 100  # of one response
NOT_FOUND = "not_found"
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(frozen=True)
class Refusal:
    """An error response, independent of its format.

    wait_seconds: time until the same request may succeed, if known; errors: one entry per fault; members: further
    members of the problem document.
    """

    status: int
    code: str
    detail: str
    retryable: bool = False
    wait_seconds: int | None = None
    parameter: str | None = None
    errors: tuple[Mapping[str, str], ...] = ()
    members: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        known = problems.find(self.code)
        return known.title if known else self.code

    @property
    def retry_after(self) -> int | None:
        """Return the value of Retry-After in whole seconds, None unless retryable."""
        if not self.retryable:
            return None
        return max(1, min(MAX_SECONDS, self.wait_seconds or RETRY_AFTER_SECONDS))


def of(error: Exception, request: Request) -> Refusal | None:
    """Return the refusal for an exception; None for an unexpected one."""
    if isinstance(error, FileMissing):
        error = ImageGone("Submit the same job with its seed again: it gives the same image.")
    if isinstance(error, GenerationError):
        return of_ours(error)
    if isinstance(error, Http404):
        error = exceptions.NotFound()
    elif isinstance(error, PermissionDenied):
        error = exceptions.PermissionDenied()
    if isinstance(error, exceptions.ValidationError):
        return _of_validation(error, request)
    if isinstance(error, exceptions.APIException):
        return _of_framework(error)
    if isinstance(error, RequestDataTooBig):
        most = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
        return Refusal(413, "body_too_large", f"Send at most {most} bytes.")
    return _of_database(error)


def _of_database(error: Exception) -> Refusal | None:
    """Return the refusal if PostgreSQL is at fault instead of the request, else None."""
    if not database.is_away(error):
        return None
    database.leave_read_only(error)
    log.warning("database_away", error=str(error).strip())
    detail = "The database does not answer or accepts no writes at the moment."
    return Refusal(503, "database_unavailable", detail, True)


def of_ours(error: GenerationError) -> Refusal:
    return Refusal(
        error.status,
        error.code,
        error.detail,
        error.retryable,
        error.retry_after,
        error.parameter,
        members=error.members,
    )


def _of_framework(error: exceptions.APIException) -> Refusal:
    """Return the refusal for an exception of REST framework, with its auth_header."""
    headers = {}
    if getattr(error, "auth_header", None):
        headers["WWW-Authenticate"] = str(error.auth_header)  # type: ignore[attr-defined]
    detail = str(error.detail)
    if isinstance(error, exceptions.NotAuthenticated):
        detail = "No API key was sent. Send the header Authorization: Bearer rt_…"
    return Refusal(error.status_code, str(error.get_codes()), detail, headers=headers)


def _of_validation(error: exceptions.ValidationError, request: Request) -> Refusal:
    entries: list[Mapping[str, str]] = []
    found = list(_flatten(error.detail, ()))
    for path, detail in found[:MAX_ERRORS]:
        entry = {"detail": str(detail), "code": detail.code or "invalid"}
        if path:
            entry["parameter"] = ".".join(path)
        if path and request.method != "GET" and path[0] not in request.query_params:
            entry["pointer"] = "#/" + "/".join(_token(part) for part in path)
        entries.append(entry)
    summary = "; ".join(
        f"{entry['parameter']}: {entry['detail']}" if "parameter" in entry else entry["detail"]
        for entry in entries
    )
    if len(found) > MAX_ERRORS:
        summary += f"; and {len(found) - MAX_ERRORS} more errors"
    return Refusal(400, "invalid_request", summary, errors=tuple(entries))


def _token(name: str) -> str:
    """Escape a name for a JSON Pointer in a fragment (RFC 6901)."""
    return quote(name.replace("~", "~0").replace("/", "~1"), safe="~")


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


INTERNAL = Refusal(500, INTERNAL_ERROR, "An unexpected error occurred. It was logged.")
BAD_REQUEST = Refusal(400, "bad_request", "The request cannot be understood.")
FORBIDDEN = Refusal(403, "permission_denied", "You do not have permission to do this.")


def nothing_at(request: HttpRequest) -> Refusal:
    return Refusal(404, NOT_FOUND, f"No page or resource has the path {request.path}.")


# --- ids of the request, for all formats -----------------------------------------------------------
def request_id() -> str | None:
    """Return the id of the current request, as in the log."""
    return structlog.contextvars.get_contextvars().get("request_id")


def job_id(refusal: Refusal) -> str | None:
    """Return the id of the job that the request is about, if any."""
    known = structlog.contextvars.get_contextvars().get("job_id")
    return None if refusal.code == NOT_FOUND else known


def trace_id(request: HttpRequest | Request) -> str | None:
    """Return the trace id of the client's traceparent header (W3C Trace Context), if any."""
    found = _TRACEPARENT.match(request.headers.get("traceparent", "").strip())
    return found[1] if found else None
