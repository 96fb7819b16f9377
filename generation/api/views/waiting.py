"""Hold a client until its job has ended: its preferences, and the header for the shell of `project.asgi`."""

import re
from dataclasses import dataclass
from typing import cast

from django.http import HttpRequest, HttpResponseBase
from django.middleware.http import ConditionalGetMiddleware
from django.utils.decorators import decorator_from_middleware
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
_WAIT = re.compile(r'wait(?:\s*=\s*"?(\d{1,9})"?)?', re.IGNORECASE)


@dataclass(frozen=True)
class Preference:
    """A client's preference (RFC 7240). seconds: to hold the answer; applied: value of Preference-Applied, or ""."""

    seconds: float = 0.0
    applied: str = ""


def preference(request: Request, *, wait: float = 0.0) -> Preference:
    """Return the preference of the Prefer header. Unknown and malformed ones are ignored, as the RFC demands.

    wait: seconds from the query, which take precedence and are no preference.
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
            # The final answer is read with the client's key, so it needs the scope.
            if APIKey.Scope.JOBS_READ not in cast(APIKey, request.auth).scopes:
                return Preference()
            seconds = min(MAX_WAIT_SECONDS, int(found[1] or MAX_WAIT_SECONDS))
            return Preference(seconds, f"wait={seconds}")
    return Preference()


def cancel_after(request: Request) -> float | None:
    """Return the seconds of the Cancel-After header ("90", "15s", "1m"), None without one. Raises InvalidRequest."""
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
        # Not for an answer that is held: the client waits for a change. Nor for the last one to a POST or PUT.
        is_of_get = asked_again(request) in ("", "GET", "HEAD")
        if HEADER in response or not is_of_get:
            return response
        return super().process_response(request, response)


# Decorator of views: an ETag, and 304 where the client has the answer.
unless_unchanged = decorator_from_middleware(_UnlessUnchanged)


def asked_again(request: HttpRequest | Request) -> str:
    """Return the method of the client's request if this is the shell's repeated request, else ""."""
    return request.META.get("asgi.scope", {}).get(SHELL, "")


def holds(request: Request, job: Job, *, seconds: float) -> bool:
    """Return whether the client will be held: then the answer passed to `hold` is usually not sent."""
    return seconds > 0 and not job.is_terminal and SHELL in request.META.get("asgi.scope", {})


_WORDS = tuple(str(word) for word in Job.TERMINAL)


def hold(
    request: Request, response: Response, job: Job, *, seconds: float, then: str, applied: str = ""
) -> Response:
    """Ask the shell to hold the client until the job has ended. Without a shell the answer is sent at once.

    then: path and query of the final answer, GET; `asked_again` is true in its view. applied: preference that holds.
    """
    if applied:
        response["Preference-Applied"] = applied
    if holds(request, job, seconds=seconds):
        channel = f"{notifications.CHANNEL_PREFIX}{job.id}"
        late = 0
        if response.status_code >= 500:  # only if it is sent: the log must not report a failure
            late, response.status_code = response.status_code, 202
        response[HEADER] = Wait(channel, _WORDS, seconds, then, late).encode()
    return response
