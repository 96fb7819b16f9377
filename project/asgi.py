"""The web process: an ASGI shell around Django's WSGI application. `uvicorn project.asgi:application`

Django decides, the shell waits. Requests run on a pool of threads, which keep their database connections. A view that
wants its client to wait answers at once with the header of `generation.realtime.hub`; the shell holds the client
without a thread and repeats the request when the job has changed, or at the deadline. With the header of
`generation.realtime.sse` the client gets server-sent events until the job ends.
"""

import asyncio
import contextlib
import gc
import os
import signal
import threading
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from functools import partial
from types import FrameType
from typing import Any
from urllib.parse import unquote, urlsplit
from uuid import uuid4

from django.conf import settings
from django.core.wsgi import get_wsgi_application

from generation.realtime import hub as waiting
from generation.realtime import sse
from generation.realtime.hub import REQUEST_ID, SHELL, Hub, Wait
from generation.realtime.sse import Stream, Streams
from project.bridge import Bridge
from project.middleware import in_utf8

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

THREADS = 8
REPEATED_AT_ONCE = 4  # repeated requests leave threads to new ones
RECHECK_SECONDS = 5.0  # a message may be lost: its sender could not reach Redis
RECHECK_DISCONNECTED_SECONDS = 1.0
RECHECKS_PER_SECOND = 100  # at most, of all clients together
STOP_SECONDS = 2.0
BODY_BYTES = 1_048_576  # read before a thread is taken; the rest streams into Django
ENDLESS = 2**62  # bytes, more than any view accepts
WAIT_HEADER = waiting.HEADER.lower().encode()
STREAM_HEADER = sse.HEADER.lower().encode()
SETTLED_HEADER = waiting.SETTLED.lower().encode()

django_app = in_utf8(get_wsgi_application())


@dataclass
class Answer:
    """A response that is kept whole."""

    status: int = 500
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)
    wait: Wait | None = None
    stream: Stream | None = None
    is_settled: bool = False

    @property
    def is_failure(self) -> bool:
        """A temporary failure, such as a restart of PostgreSQL: a waiting client does not get it."""
        return self.status >= 500 and not self.is_settled

    @property
    def is_kept(self) -> bool:
        """It is sent later or in another form."""
        return self.wait is not None or self.stream is not None

    async def send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        await send({"type": "http.response.body", "body": bytes(self.body)})


class Shell:
    """The ASGI application: passes requests to Django and holds the clients that a view wants to wait."""

    def __init__(self, wsgi_application: Any, hub: Hub) -> None:
        self._django = Bridge(wsgi_application, threads=THREADS)
        self._hub = hub
        self._streams = Streams(
            settings.REDIS_URL, hub, recheck_seconds=lambda: self._recheck_seconds()
        )
        self._repeated = asyncio.Semaphore(REPEATED_AT_ONCE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self._hub.start()
            await self._http(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000})

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        self._hub.start()
        _before_stop(self._close)
        gc.freeze()  # garbage collections skip the objects of Django's modules
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self._close()
        await self._streams.aclose()
        await send({"type": "lifespan.shutdown.complete"})

    def _close(self) -> None:
        self._hub.close()
        self._streams.close()

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked_at = time.monotonic()
        scope = {
            **scope,
            "headers": _without_ours(scope["headers"]),
            SHELL: "",
            REQUEST_ID: str(uuid4()),
        }
        answer = Answer()

        async def pass_or_keep(message: Message) -> None:
            if message["type"] == "http.response.start":
                _read_start(answer, message)
                if not answer.is_kept:
                    await send({**message, "headers": answer.headers})
            elif not answer.is_kept:
                await send(message)
            else:
                answer.body += message.get("body", b"")

        await self._django(*await _buffered(scope, receive), pass_or_keep)
        if answer.stream is not None:
            await self._stream(scope, receive, send, answer, asked_at)
        elif answer.wait is not None:
            await self._hold(scope, receive, send, answer, asked_at)

    # --- waiting ----------------------------------------------------------------------------------
    async def _hold(
        self, scope: Scope, receive: Receive, send: Send, answer: Answer, asked_at: float
    ) -> None:
        """Send the final answer; stop when the client disconnects."""
        gone = asyncio.ensure_future(_disconnected(receive))
        final = asyncio.ensure_future(self._final_answer(scope, answer, asked_at))
        try:
            await asyncio.wait((gone, final), return_when=asyncio.FIRST_COMPLETED)
            if final.done():
                await final.result().send(send)
        finally:
            gone.cancel()
            final.cancel()

    async def _final_answer(self, scope: Scope, answer: Answer, asked_at: float) -> Answer:
        wait = answer.wait
        if wait is None:
            return answer
        request = _repeated(scope, wait.then)
        deadline = asked_at + wait.seconds
        while not self._hub.closing:
            left = deadline - time.monotonic()
            if left <= 0:
                break
            await self._hub.moved(wait, since=asked_at, timeout=min(left, self._recheck_seconds()))
            asked_at = time.monotonic()
            with contextlib.suppress(TimeoutError):
                # While the process stops, the last known state is good enough.
                async with asyncio.timeout(STOP_SECONDS if self._hub.closing else None):
                    newer = await self._ask(request)
                answer = answer if newer.is_failure else newer
            if answer.wait is None:
                break
        if answer.wait is not None:
            answer.status = answer.wait.status or answer.status
        return answer

    # --- events -----------------------------------------------------------------------------------
    async def _stream(
        self, scope: Scope, receive: Receive, send: Send, answer: Answer, asked_at: float
    ) -> None:
        """Send events until the last one; stop when the client disconnects."""
        stream = answer.stream
        if stream is None:
            return
        headers = [(name, value) for name, value in answer.headers if name != b"content-length"]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})

        async def write(content: bytes) -> None:
            await send({"type": "http.response.body", "body": content, "more_body": True})

        ask = partial(self._ask, _repeated(scope, stream.then))
        gone = asyncio.ensure_future(_disconnected(receive))
        sent = asyncio.ensure_future(
            self._streams.run(answer, asked_at=asked_at, ask=ask, write=write)
        )
        try:
            await asyncio.wait((gone, sent), return_when=asyncio.FIRST_COMPLETED)
            with contextlib.suppress(TimeoutError):  # of a client that reads nothing
                if sent.done():
                    sent.result()
                    async with asyncio.timeout(STOP_SECONDS):
                        await send({"type": "http.response.body", "body": b""})
        finally:
            gone.cancel()
            sent.cancel()

    # --- repeated requests ------------------------------------------------------------------------
    def _recheck_seconds(self) -> float:
        fewest = RECHECK_SECONDS if self._hub.is_connected else RECHECK_DISCONNECTED_SECONDS
        return max(fewest, self._hub.waiters / RECHECKS_PER_SECOND)

    async def _ask(self, request: Scope) -> Answer:
        answer = Answer()

        async def keep(message: Message) -> None:
            if message["type"] == "http.response.start":
                _read_start(answer, message)
            else:
                answer.body += message.get("body", b"")

        async with self._repeated:
            await self._django(request, _empty, keep)
        return answer


def _without_ours(headers: Any) -> list[tuple[bytes, bytes]]:
    ours = (WAIT_HEADER, STREAM_HEADER, SETTLED_HEADER)
    return [(name, value) for name, value in headers if name.lower() not in ours]


def _read_start(answer: Answer, message: Message) -> None:
    """Read the status, the headers for the client, and our internal headers, which are removed here alone."""
    answer.status = message["status"]
    answer.headers = _without_ours(message["headers"])
    for name, value in message["headers"]:
        if name.lower() == WAIT_HEADER:
            answer.wait = Wait.decode(value.decode())
        elif name.lower() == STREAM_HEADER:
            answer.stream = Stream.decode(value.decode())
        elif name.lower() == SETTLED_HEADER:
            answer.is_settled = True


def _repeated(scope: Scope, target: str) -> Scope:
    """Return the scope of a GET of `target` by the same client."""
    parts = urlsplit(target)
    dropped = (b"content-length", b"content-type", b"transfer-encoding", b"expect")
    return {
        **scope,
        SHELL: scope["method"],
        "method": "GET",
        "path": unquote(parts.path),
        "raw_path": parts.path.encode(),
        "query_string": parts.query.encode(),
        "headers": [(name, value) for name, value in scope["headers"] if name not in dropped],
    }


async def _empty() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _buffered(scope: Scope, receive: Receive) -> tuple[Scope, Receive]:
    """Read the body ahead, up to BODY_BYTES. Return the scope with its Content-Length, and a `receive` that replays it.

    WSGI ignores a body without Content-Length, as chunked ones are.
    """
    messages = [await receive()]
    size = len(messages[0].get("body", b""))
    while messages[-1].get("more_body", False) and size < BODY_BYTES:
        messages.append(await receive())
        size += len(messages[-1].get("body", b""))
    is_whole = not messages[-1].get("more_body", False)
    messages.reverse()
    if size and not any(name == b"content-length" for name, _ in scope["headers"]):
        length = str(size if is_whole else ENDLESS).encode()
        scope = {**scope, "headers": [*scope["headers"], (b"content-length", length)]}

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return scope, replay


def _before_stop(action: Callable[[], None]) -> None:
    """Run `action` in the loop at the first signal to stop: uvicorn waits for open requests before its shutdown."""
    if threading.current_thread() is not threading.main_thread():
        return
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        before = signal.getsignal(number)

        def handle(number: int, frame: FrameType | None, before: Any = before) -> None:
            loop.call_soon_threadsafe(action)
            if callable(before):
                before(number, frame)

        signal.signal(number, handle)


application = Shell(django_app, Hub(settings.REDIS_URL))
