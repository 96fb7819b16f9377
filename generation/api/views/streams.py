"""Response that the shell of `project.asgi` turns into server-sent events of a job.

A view calls `events.watch(job.id, previews=…)`, then reads the row, then passes the result of `watch` to `answer`.
"""

from collections.abc import Mapping
from typing import Any

from django.http import HttpResponse
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request

from generation.infra import events
from generation.models import Job
from generation.realtime.hub import SHELL
from generation.realtime.sse import CONTENT_TYPE, HEADER, Stream, all_at_once


def answer(
    request: Request,
    data: Any,
    *,
    job: Job,
    watched: str,
    then: str,
    style: str,
    options: Mapping[str, Any],
    previews: bool,
    after: str = "",
) -> HttpResponse:
    """Return the response that makes the shell send the job's events. Without a shell it has the current state.

    data: `style` of `realtime.formats` renders it as the snapshot, and as the last event if the job has ended. then:
    path and query of the repeated GET request; a response not made by this function is the last event. after: id of the
    last event that the client has received.
    """
    ends = tuple(str(word) for word in Job.TERMINAL)
    wanted = Stream(
        channel=events.channel(job.id),
        words=(events.WORD, *ends),
        ends=ends,
        key=events.stream(job.id),
        then=then,
        style=style,
        options=options,
        id=watched,
        after=after,
        marks=events.marks(job.id, previews=previews),
        mark_seconds=events.WATCHED_SECONDS,
        is_final=job.is_terminal,
    )
    body = JSONRenderer().render(data)
    if SHELL in request.META.get("asgi.scope", {}) and request.method != "HEAD":
        response = HttpResponse(body, content_type=CONTENT_TYPE)
        response[HEADER] = wanted.encode()
    else:
        response = HttpResponse(all_at_once(wanted, body), content_type=CONTENT_TYPE)
    response["Cache-Control"] = "no-cache"
    response["X-Accel-Buffering"] = "no"  # nginx would buffer 4 KB of events
    return response
