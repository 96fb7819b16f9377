"""HTTP responses for errors: problem documents (RFC 9457) or, on the OpenAI routes, OpenAI's format.

`code` is stable; failed jobs have the same codes in `job.error.code`.
"""

import json
from http import HTTPStatus
from typing import Any, NamedTuple

from django.core.exceptions import DisallowedHost
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from drf_spectacular.utils import OpenApiResponse
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from generation.api import problems
from generation.api.openai import errors
from generation.api.serializers.problems import ProblemSerializer
from generation.api.views import refusals
from generation.api.views.refusals import Refusal

CONTENT_TYPE = "application/problem+json"


def responses(*statuses: int) -> dict[Any, Any]:
    """Return schema entries for these statuses, and for 429 if a key is required."""
    limited = {HTTPStatus.TOO_MANY_REQUESTS} if HTTPStatus.UNAUTHORIZED in statuses else set()
    return {
        (int(status), CONTENT_TYPE): OpenApiResponse(ProblemSerializer, HTTPStatus(status).phrase)
        for status in sorted({*statuses, *limited})
    }


def page_of(code: str, request: HttpRequest | Request) -> str:
    """Return the URL of the page that explains the code; "about:blank" if there is none."""
    if problems.find(code) is None:
        return "about:blank"
    path = reverse("problem", args=[code])
    try:
        return request.build_absolute_uri(path)
    except DisallowedHost:  # the host is the error
        return path


def body_of(refusal: Refusal, request: HttpRequest | Request) -> dict[str, Any]:
    """Return the problem document, without members that have no value."""
    request_id = refusals.request_id()
    body = {
        "type": page_of(refusal.code, request),
        "title": refusal.title,
        "status": refusal.status,
        "detail": refusal.detail,
        "instance": f"urn:uuid:{request_id}" if request_id else None,
        "code": refusal.code,
        "retryable": refusal.retryable,
        "retry_after": refusal.retry_after,
        "parameter": refusal.parameter,
        "errors": list(refusal.errors) or None,
        "job_id": refusals.job_id(refusal),
        "trace_id": refusals.trace_id(request),
        **refusal.members,
    }
    return {name: value for name, value in body.items() if value is not None}


class Rendering(NamedTuple):
    status: int
    body: dict[str, Any]
    headers: dict[str, str]
    content_type: str


def _render(refusal: Refusal, request: HttpRequest | Request) -> Rendering:
    headers = dict(refusal.headers)
    if refusal.retry_after is not None:
        headers["Retry-After"] = str(refusal.retry_after)
    if errors.is_openai_route(request.path):
        return Rendering(
            errors.status_of(refusal),
            errors.body_of(refusal),
            headers | errors.headers_of(refusal),
            errors.CONTENT_TYPE,
        )
    return Rendering(refusal.status, body_of(refusal, request), headers, CONTENT_TYPE)


# --- from the API's views -------------------------------------------------------------------------
def handle(error: Exception, context: dict[str, Any]) -> Response | None:
    """Handle an exception of a view (EXCEPTION_HANDLER). Return None for an unexpected one, which Django handles."""
    refusal = refusals.of(error, context["request"])
    return answer(refusal, context["request"]) if refusal else None


def answer(refusal: Refusal, request: Request) -> Response:
    """Return the response of a view."""
    shown = _render(refusal, request)
    request.accepted_renderer = JSONRenderer()  # the browsable renderer would give HTML
    request.accepted_media_type = shown.content_type
    return Response(
        shown.body, status=shown.status, headers=shown.headers, content_type=shown.content_type
    )


def plain(refusal: Refusal, request: HttpRequest) -> HttpResponse:
    """Return the response for code outside of views."""
    shown = _render(refusal, request)
    return HttpResponse(
        json.dumps(shown.body),
        status=shown.status,
        headers=shown.headers,
        content_type=shown.content_type,
    )
