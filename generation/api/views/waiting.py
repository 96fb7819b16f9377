"""Waiting clients: their preferences, and the header that makes the shell of `project.asgi` hold them until the end."""

import re
from dataclasses import dataclass
from typing import cast

from django.http import HttpRequest, HttpResponseBase
from django.middleware.http import ConditionalGetMiddleware
from django.utils.decorators import decorator_from_middleware
from drf_spectacular.utils import OpenApiParameter
from rest_framework.request import Request
from rest_framework.response import Response

from generation.api.serializers.jobs import MAX_WAIT_SECONDS
from generation.errors import InvalidRequest
from generation.infra import notifications
from generation.models import APIKey, Job
from generation.realtime.hub import HEADER, SHELL, Wait

POLL_SECONDS = 1  # for a client that cannot wait
MAX_DEADLINE_SECONDS = 30 * 24 * 3600
_DURATION = re.compile(r"(\d{1,9})([smhd]?)")
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 24 * 3600}
# Request headers in the schema of the routes that create a job.
IDEMPOTENCY_KEY = OpenApiParameter(
    "Idempotency-Key",
    location=OpenApiParameter.HEADER,
    description="Requests with the same key and body get the same job.",
)
WAITING = (
    OpenApiParameter(
        "Prefer",
        location=OpenApiParameter.HEADER,
        description=f"wait=SECONDS: answer when the job has ended, after at most {MAX_WAIT_SECONDS} seconds. "
        "respond-async: answer at once.",
    ),
    OpenApiParameter(
        "Cancel-After",
        location=OpenApiParameter.HEADER,
        description="Cancel a job that has not ended after this time, from 1s to 30d, such as 15s, 5m or 1h.",
    ),
)
_WAIT = re.compile(r'wait(?:\s*=\s*"?(\d{1,9})"?)?', re.IGNORECASE)


@dataclass(frozen=True)
class Preference:
    """A client's preference (RFC 7240). seconds: how long to wait; applied: value of Preference-Applied, or ""."""

    seconds: float = 0.0
    applied: str = ""


def preference(request: Request, *, wait: float = 0.0) -> Preference:
    """Return the preference of the Prefer header. Unknown and malformed ones are ignored, as the RFC requires.

    wait: seconds from the query, which take precedence and are not acknowledged by Preference-Applied.
    """
    if wait:
        return Preference(wait)
    asked = [
        part.partition(";")[0].strip() for part in request.headers.get("Prefer", "").split(",")
    ]
    if any(part.lower() == "respond-async" for part in asked):
        return Preference(applied="respond-async")
    for part in asked:
        if found := _WAIT.fullmatch(part):
            # The final answer is a read with the client's key, which needs the scope.
            if APIKey.Scope.JOBS_READ not in cast(APIKey, request.auth).scopes:
                return Preference()
            seconds = min(MAX_WAIT_SECONDS, int(found[1] or MAX_WAIT_SECONDS))
            return Preference(seconds, f"wait={seconds}")
    return Preference()


def cancel_after(request: Request) -> float | None:
    """Return the seconds of the Cancel-After header ("90", "15s", "1m"), or None. Raises InvalidRequest."""
    header = request.headers.get("Cancel-After")
    if header is None:
        return None
    found = _DURATION.fullmatch(header.strip())
    seconds = int(found[1]) * _UNITS[found[2]] if found else 0
    if not 1 <= seconds <= MAX_DEADLINE_SECONDS:
        raise InvalidRequest(
            "Give a duration from 1s to 30d, such as 15s, 5m or 1h.", parameter="Cancel-After"
        )
    return seconds


class _UnlessUnchanged(ConditionalGetMiddleware):
    def process_response(
        self, request: HttpRequest, response: HttpResponseBase
    ) -> HttpResponseBase:
        # Not for a held response, whose client waits for a change, nor for the final response to a POST or PUT.
        is_of_get = asked_again(request) in ("", "GET", "HEAD")
        if HEADER in response or not is_of_get:
            return response
        return super().process_response(request, response)


# Decorator of views: adds an ETag, and answers 304 if the client has the current response.
unless_unchanged = decorator_from_middleware(_UnlessUnchanged)


def asked_again(request: HttpRequest | Request) -> str:
    """Return the method of the client's original request if this is the shell's repetition, else ""."""
    return request.META.get("asgi.scope", {}).get(SHELL, "")


def holds(request: Request, job: Job, *, seconds: float) -> bool:
    """Return whether the shell will hold the client: then the response passed to `hold` is usually not sent."""
    return seconds > 0 and not job.is_terminal and SHELL in request.META.get("asgi.scope", {})


_WORDS = tuple(str(word) for word in Job.TERMINAL)


def hold(
    request: Request, response: Response, job: Job, *, seconds: float, then: str, applied: str = ""
) -> Response:
    """Return the response, marked for the shell to hold until the job has ended. Without a shell it is sent at once.

    then: path and query of the GET for the final answer, in whose view `asked_again` is true. applied: see Preference.
    """
    if applied:
        response["Preference-Applied"] = applied
    if holds(request, job, seconds=seconds):
        channel = f"{notifications.CHANNEL_PREFIX}{job.id}"
        late = 0
        if response.status_code >= 500:  # it is usually not sent, so Django must not log a failure
            late, response.status_code = response.status_code, 202
        response[HEADER] = Wait(channel, _WORDS, seconds, then, late).encode()
    return response
