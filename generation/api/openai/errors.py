"""Errors in OpenAI's format, and the routes that use it."""

import re
from http import HTTPStatus
from typing import Any

from drf_spectacular.utils import OpenApiResponse

from generation.api.openai.serializers import OpenAIErrorSerializer
from generation.api.views import refusals
from generation.api.views.refusals import MAX_SECONDS, Refusal
from generation.errors import QuotaExceeded

CONTENT_TYPE = "application/json"
# Below /v1/models/{one}/ are Replicate's routes.
ROUTES = re.compile(r"/v1/(images/generations(/.*)?|models(/[^/]*)?)")
TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
# Parameters that have another name on these routes.
PARAMETERS = {"text": "prompt"}


def is_openai_route(path: str) -> bool:
    """Return whether errors on this path are in OpenAI's format."""
    return bool(ROUTES.fullmatch(path))


def status_of(refusal: Refusal) -> int:
    """Return the HTTP status: OpenAI uses 400 instead of 422."""
    return HTTPStatus.BAD_REQUEST if refusal.status == 422 else refusal.status


def body_of(refusal: Refusal) -> dict[str, Any]:
    """Return `{"error": …}`; also the data of the last event of a failed stream."""
    first = refusal.errors[0] if refusal.errors else {}
    parameter = refusal.parameter or first.get("parameter")
    kind = "server_error" if refusal.status >= 500 else "invalid_request_error"
    return {
        "error": {
            "message": _message(refusal),
            "type": TYPES.get(refusal.status, kind),
            "param": PARAMETERS.get(parameter or "", parameter),
            "code": "unsupported_parameter"
            if first.get("code") == "unsupported_parameter"
            else refusal.code,
            **refusal.members,
        }
    }


def _message(refusal: Refusal) -> str:
    """Return title and detail as one text: the format has no title, and some details contain only the remedy."""
    detail = refusal.detail
    return detail if detail.startswith(refusal.title) else f"{refusal.title}. {detail}"


def headers_of(refusal: Refusal) -> dict[str, str]:
    """Return the headers that control retries of OpenAI's clients, and those that identify the request."""
    is_soon = (
        refusal.retryable
        and (refusal.wait_seconds or 0) <= MAX_SECONDS
        and refusal.code != QuotaExceeded.code  # the wait is longer than clients allow
    )
    headers = {"x-should-retry": "true" if is_soon else "false"}
    return headers | identity(refusals.job_id(refusal))


def identity(job_id: str | None) -> dict[str, str]:
    """Return the headers with the ids of the request and its job."""
    named = {"X-Request-Id": refusals.request_id(), "X-Job-Id": job_id}
    return {name: value for name, value in named.items() if value}


def responses(*statuses: int) -> dict[Any, Any]:
    """Return schema entries: these statuses answer with an error in OpenAI's format."""
    return {
        (status, CONTENT_TYPE): OpenApiResponse(OpenAIErrorSerializer, HTTPStatus(status).phrase)
        for status in statuses
    }
