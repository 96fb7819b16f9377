"""Server-sent events of a job, from its stream in Redis.

A view answers at once with the header X-Retort-Stream, an encoded `Stream` (made by
`generation.api.views.streams.answer`). The shell of `project.asgi` removes it, and `Streams.run` sends a snapshot (the
body of that answer), the entries of the stream, then the last event. When the job may have ended, and every few seconds
because messages may be lost, the shell repeats the request: GET `then`, in which `asked_again(request)` is the method
of the client's request. An answer without the header, or with `is_final`, ends the stream: its body becomes the last
event. A temporary failure (`is_failure`) is ignored, and the request repeated later.

A style (`formats.STYLES`) converts the snapshot, the entries of the stream and the end to events.

Event ids are the stream's. A client that reconnects with Last-Event-ID gets the later entries, or a snapshot if the
stream has dropped them or an entry may have been lost.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import redis.asyncio
import structlog
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from generation.realtime.formats import STYLES, Sent, Style
from generation.realtime.hub import Hub, Wait

log = structlog.get_logger(__name__)

HEADER = "X-Retort-Stream"  # from a view to the shell; clients neither send nor see it
CONTENT_TYPE = "text/event-stream"
NO_ID = "0-0"
FINAL_SUFFIX = "-end"  # of the last event's id: a client with this id has received everything
RETRY_MILLISECONDS = 1000  # delay before a browser reconnects
HEARTBEAT_SECONDS = 15.0
KEPT_SECONDS = 600  # lifetime of a stream after it was last read or written
POLL_SECONDS = 5.0  # interval of reads without a message; less than hub.REMEMBER_SECONDS
SEND_SECONDS = 60.0  # a client that reads nothing for this time is disconnected
PAGE = 16  # events in memory per client; a preview may have 100 KB
CONNECTIONS = 4  # to Redis, for all clients
PAUSE_SECONDS = 1.0  # after a failure of Redis


@dataclass(frozen=True)
class Stream:
    """A view's instruction to the shell: send the client the events of `key`, read when one of `words` is published.

    ends: words after which the shell repeats the request. id: the last event included in the snapshot (the answer's
    body). after: the last event that the client has received, "" for a new client. marks: keys to renew, for
    `mark_seconds` each, while the client is connected.
    """

    channel: str
    words: tuple[str, ...]
    ends: tuple[str, ...]
    key: str
    then: str
    style: str
    options: Mapping[str, Any] = field(default_factory=dict)
    id: str = NO_ID
    after: str = ""
    marks: tuple[str, ...] = ()
    mark_seconds: int = 60
    is_final: bool = False

    def encode(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def decode(cls, header: str) -> "Stream":
        fields = json.loads(header)
        lists = {name: tuple(fields[name]) for name in ("words", "ends", "marks")}
        return cls(**{**fields, **lists})


class Answer(Protocol):
    """A buffered answer of Django. stream: None without the header."""

    status: int
    body: bytes
    stream: Stream | None

    @property
    def is_failure(self) -> bool:
        """Whether this is a temporary failure."""


Ask = Callable[[], Awaitable[Answer]]
Write = Callable[[bytes], Awaitable[None]]


def frame(event: Sent | None, event_id: str) -> bytes:
    """Return the event as bytes, b"" for None. event_id: "" = no id."""
    if event is None:
        return b""
    lines = [f"id: {event_id}".encode()] if event_id else []
    lines += [f"event: {event.name}".encode()]
    lines += [b"data: " + line for line in event.data.splitlines() or [b""]]
    return b"\n".join(lines) + b"\n\n"


def ending(events: Sequence[Sent], event_id: str) -> bytes:
    """Return the last events as bytes. The id of the very last one gets FINAL_SUFFIX."""
    ids = [event_id] * (len(events) - 1) + [event_id and event_id + FINAL_SUFFIX]
    return b"".join(map(frame, events, ids))


def beginning(style: Style) -> bytes:
    return f"retry: {RETRY_MILLISECONDS}\n\n".encode() if style.is_resumed else b""


def all_at_once(wanted: Stream, body: bytes) -> bytes:
    """Return all events of an answer without a shell: the current state and, if the job has ended, the end."""
    style = STYLES[wanted.style](wanted.options)
    event_id = wanted.id if style.is_resumed else ""
    sent = beginning(style) + frame(style.snapshot(body), event_id)
    return sent + (ending(style.final(200, body), event_id) if wanted.is_final else b"")


class Streams:
    """All event clients of this process."""

    def __init__(self, url: str, hub: Hub, *, recheck_seconds: Callable[[], float]) -> None:
        self.hub = hub
        self.recheck_seconds = recheck_seconds
        self._url = url
        self._redis: redis.asyncio.Redis | None = None
        self._resume_at = 0.0
        self._open: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._open)

    async def run(self, first: Answer, *, asked_at: float, ask: Ask, write: Write) -> None:
        """Serve a client until the last event or until the process stops."""
        if self.hub.closing or first.stream is None:
            return
        client = asyncio.ensure_future(_Client(self, first.stream, asked_at, ask, write).run(first))
        self._open.add(client)
        try:
            await asyncio.wait(
                (client,)
            )  # unlike `await client`, so that `close` cancels the client and not the caller
            if not client.cancelled():
                client.result()
        finally:
            client.cancel()
            self._open.discard(client)

    def close(self) -> None:
        """Disconnect all clients without a last event, so that they reconnect to another process."""
        for client in self._open:
            client.cancel()

    async def aclose(self) -> None:
        self.close()
        if self._redis is not None:
            await self._redis.aclose()
            await self._redis.connection_pool.disconnect()

    async def read(
        self, key: str, start: str, renew: Sequence[str], seconds: int
    ) -> list[tuple[str, dict[str, str]]] | None:
        """Return a page of entries from `start`, inclusive, and renew the marks; None while Redis is unreachable."""
        if time.monotonic() < self._resume_at:
            return None
        try:
            async with self._client().pipeline(transaction=False) as pipe:
                for mark in renew:
                    pipe.set(mark, "1", ex=seconds)
                pipe.expire(key, KEPT_SECONDS)
                pipe.xrange(key, min=start, count=PAGE + 1)
                return (await pipe.execute())[-1]
        except redis.RedisError as error:
            self._resume_at = time.monotonic() + PAUSE_SECONDS
            log.warning("streams_lost_redis", error=str(error) or repr(error))
            return None

    def _client(self) -> redis.asyncio.Redis:
        if self._redis is None:  # created in the event loop
            pool = redis.asyncio.BlockingConnectionPool.from_url(
                self._url,
                max_connections=CONNECTIONS,
                timeout=5,
                socket_timeout=2,
                socket_connect_timeout=1,
                decode_responses=True,
                retry=Retry(NoBackoff(), 1),  # once: the server may have restarted
            )
            self._redis = redis.asyncio.Redis(connection_pool=pool)
        return self._redis


class _Client:
    """An event client."""

    def __init__(
        self, streams: Streams, wanted: Stream, asked_at: float, ask: Ask, write: Write
    ) -> None:
        self._streams, self._hub = streams, streams.hub
        self._wanted = wanted
        self._ask, self._write_bytes = ask, write
        self._style = STYLES[wanted.style](wanted.options)
        self._any = Wait(wanted.channel, wanted.words, 0, wanted.then)
        self._end = Wait(wanted.channel, wanted.ends, 0, wanted.then)
        self._seen = wanted.after  # the client has received everything up to this id; "": unknown
        self._asked_at = self._checked_until = self._looked_at = asked_at
        self._look_at = asked_at + POLL_SECONDS
        self._marked_at = asked_at  # by the view
        self._wrote_at = time.monotonic()

    async def run(self, answer: Answer) -> None:
        await self._write(beginning(self._style))
        if not self._seen or not await self._forward():  # also for None: unknown
            await self._snapshot(answer)
        while not _is_final(answer):
            await self._wait_for_change()
            if self._hub.closing:
                return
            is_whole = await self._forward() is not False
            if not is_whole or await self._should_ask():
                self._asked_at = time.monotonic()
                newer = await self._ask()
                if not newer.is_failure:
                    answer = newer
                    if not _is_final(answer) and not (
                        is_whole and self._style.is_current(answer.body)
                    ):
                        await self._snapshot(answer)
            if time.monotonic() >= self._wrote_at + HEARTBEAT_SECONDS:
                await self._write(b":\n\n")
        if self._seen:
            await self._forward()  # what was written before the end
        last = self._style.final(answer.status, answer.body)
        await self._write(ending(last, self._id))

    async def _wait_for_change(self) -> None:
        now = time.monotonic()
        due = min(
            self._look_at,
            self._wrote_at + HEARTBEAT_SECONDS,
            self._asked_at + self._streams.recheck_seconds(),
        )
        await self._hub.moved(self._any, since=self._looked_at, timeout=max(0.0, due - now))

    async def _should_ask(self) -> bool:
        since, self._checked_until = self._checked_until, self._looked_at
        if await self._hub.moved(self._end, since=since, timeout=0):
            return True
        return time.monotonic() >= self._asked_at + self._streams.recheck_seconds()

    @property
    def _id(self) -> str:
        """Return the id of the next event."""
        return (self._seen or NO_ID) if self._style.is_resumed else ""

    async def _snapshot(self, answer: Answer) -> None:
        if answer.stream is not None:
            self._seen = answer.stream.id if answer.stream.id != NO_ID else ""
        await self._write(frame(self._style.snapshot(answer.body), self._id))

    async def _forward(self) -> bool | None:
        """Send the new entries of the stream.

        Return False if the stream has dropped the client's last event, None while Redis is unreachable.
        """
        self._looked_at = time.monotonic()
        while True:
            marks: tuple[str, ...] = ()
            if time.monotonic() >= self._marked_at + self._wanted.mark_seconds / 3:
                marks, self._marked_at = self._wanted.marks, time.monotonic()
            page = await self._streams.read(
                self._wanted.key, self._seen or "-", marks, self._wanted.mark_seconds
            )
            self._look_at = self._looked_at + (PAUSE_SECONDS if page is None else POLL_SECONDS)
            if page is None:
                return None
            if not self._seen or not page or page[0][0] != self._seen:
                return False
            for event_id, fields in page[1:]:
                self._seen = event_id
                await self._write(
                    frame(self._style.event(fields["kind"], fields["data"]), self._id)
                )
            if len(page) <= PAGE:
                return True

    async def _write(self, content: bytes) -> None:
        if content:
            async with asyncio.timeout(SEND_SECONDS):
                await self._write_bytes(content)
            self._wrote_at = time.monotonic()


def _is_final(answer: Answer) -> bool:
    return answer.stream is None or answer.stream.is_final
