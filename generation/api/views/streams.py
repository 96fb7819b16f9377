"""Letting a client watch a job: the answer that the shell of `project.asgi` turns into server-sent events.

In a view, in this order: `events.watch(job.id, previews=…)`, read the row, `answer(…)` with what `watch` returned.
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
    """Show the client the events of the job, and its end. Without a shell it gets the present state at once.

    data: what `style` of `event_styles` makes the snapshot of, and the last event if the job has ended. then: path and
    query that answers GET with the same later, or without this function: then that is the last event. after: the id of
    the last event that the client has seen.
    """
    ends = tuple(str(word) for word in Job.TERMINAL)
    wish = Stream(
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
        response[HEADER] = wish.encode()
    else:
        response = HttpResponse(all_at_once(wish, body), content_type=CONTENT_TYPE)
    response["Cache-Control"] = "no-cache"
    response["X-Accel-Buffering"] = "no"  # nginx would keep events until it has 4 KB of them
    return response
