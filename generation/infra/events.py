"""Events of watched jobs, in one Redis stream per job.

Events are written only while a client watches the job. They may be lost, so readers of the stream also read the row.
"""

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import redis

from generation.infra.redis_client import attempt

CHANNEL_PREFIX = "retort:job:"
WORD = "event"  # message on the job's channel: its stream has a new entry
STREAM_PREFIX = "retort:events:"
WATCHED_PREFIX = "retort:watched:"
PREVIEWED_PREFIX = "retort:previewed:"
WATCHED_SECONDS = 20  # the web process renews a mark while its client is connected
KEPT_SECONDS = 600  # after the last event, for clients that reconnect
KEPT_EVENTS = 1024
NO_ID = "0-0"  # used while Redis is unreachable


@dataclass(frozen=True)
class Event:
    """kind: status, progress or preview; data: JSON values."""

    job_id: UUID
    kind: str
    data: Mapping[str, Any]


@dataclass(frozen=True)
class Watched:
    """Jobs whose events, and jobs whose previews, a client watches."""

    events: frozenset[UUID] = frozenset()
    previews: frozenset[UUID] = frozenset()


def channel(job_id: UUID) -> str:
    return f"{CHANNEL_PREFIX}{job_id}"


def stream(job_id: UUID) -> str:
    return f"{STREAM_PREFIX}{job_id}"


def marks(job_id: UUID, *, previews: bool) -> tuple[str, ...]:
    """Return the keys that mark a job as watched."""
    return (
        f"{WATCHED_PREFIX}{job_id}",
        *((f"{PREVIEWED_PREFIX}{job_id}",) if previews else ()),
    )


def watch(job_id: UUID, *, previews: bool) -> str:
    """Mark the job as watched, so that its events are written. Return the id of the latest event.

    A row that is read after this call includes all events up to that id.
    """

    def begin(redis: redis.Redis) -> str:
        with redis.pipeline(transaction=False) as pipe:
            for mark in marks(job_id, previews=previews):
                pipe.set(mark, "1", ex=WATCHED_SECONDS)
            pipe.xrevrange(stream(job_id), count=1)
            newest = pipe.execute()[-1]
        if newest:
            return newest[0][0]
        # An id that stays in the stream until older entries are trimmed.
        (event_id, *_) = _write(redis, [Event(job_id, "watched", {})], begins=True)
        return event_id

    return attempt(begin, NO_ID)


def query_watched(pipe: Any, job_ids: Collection[UUID]) -> None:
    """Add the query to a Redis pipeline; `watched` reads its reply."""
    pipe.mget([name for job_id in job_ids for name in marks(job_id, previews=True)])


def watched(job_ids: Collection[UUID], answer: list[str | None]) -> Watched:
    pairs = list(zip(job_ids, answer[::2], answer[1::2], strict=True))
    return Watched(
        frozenset(job_id for job_id, mark, _ in pairs if mark),
        frozenset(job_id for job_id, _, mark in pairs if mark),
    )


def write(events: Iterable[Event]) -> None:
    """Add events to the existing streams of their jobs, and notify the clients."""
    found = list(events)
    if found:
        attempt(lambda redis: _write(redis, found, begins=False), None)


def forget(job_ids: Iterable[UUID]) -> None:
    """Delete the streams and marks of jobs. Later events of a worker do not create a stream again."""
    names = [name for job_id in job_ids for name in (stream(job_id), *marks(job_id, previews=True))]
    if names:
        attempt(lambda redis: redis.delete(*names), None)


def _write(redis: redis.Redis, events: Collection[Event], *, begins: bool) -> list[str]:
    """Append the events and return their ids. begins: create missing streams."""
    with redis.pipeline(transaction=False) as pipe:
        for event in events:
            key = stream(event.job_id)
            fields: dict[Any, Any] = {"kind": event.kind, "data": json.dumps(dict(event.data))}
            pipe.xadd(key, fields, maxlen=KEPT_EVENTS, approximate=True, nomkstream=not begins)
            pipe.expire(key, KEPT_SECONDS)
            pipe.publish(channel(event.job_id), WORD)
        return pipe.execute()[::3]
