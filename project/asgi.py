"""The web process: an ASGI shell around Django's WSGI application.

    uvicorn project.asgi:application --http project.connections:Connection --ws none

Django runs on a pool of threads that keep their database connections. A thread takes a complete request and returns a
complete answer; it never waits for a client. A view that makes its client wait answers at once with the header of
`generation.realtime.hub`: the shell keeps the connection open without a thread and repeats the request when the job
changes, or at the deadline. With the header of `generation.realtime.sse` it sends events until the job ends.
"""

import asyncio
import contextlib
import gc
import os
import signal
import threading
import time
from collections.abc import Callable
from importlib import import_module
from types import FrameType
from typing import Any
from uuid import uuid4

import structlog
from django.conf import settings
from django.core.wsgi import get_wsgi_application

from generation.images import storage
from generation.infra import metrics
from generation.realtime.hub import LOAD, REQUEST_ID, SHELL, Hub
from project import bodies, connections, tracing
from project.answers import INTERNAL, Answer, Send, refusal, text, whole
from project.bodies import Body, Receive, Scope
from project.bridge import Bridge
from project.connections import Connection
from project.holding import Holder
from project.memory import Held, Memory
from project.middleware import FOR_OPERATORS, in_utf8
from project.staff import is_staff
from project.watchdog import Watchdog

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")

log = structlog.get_logger(__name__)

THREADS = 8
HELD_BYTES = 134_217_728  # limit for requests and answers in memory, all clients together
UPLOADS_AT_ONCE = 2
LOGINS = ("/login", "/admin/login/")
LOGINS_AT_ONCE = 2  # hashing a password takes 100 MiB
LOGINS_WAITING = 32
LIVE = "/health/live"
FLUSH_SECONDS = 1.0
NEVER_CACHED = [
    (b"content-type", b"application/json"),
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
]

tracing.begin()
django_app = in_utf8(get_wsgi_application())


import_module("generation.checks").refuse_faults()  # its models need Django's set-up
# Django would import the views at the first request: too late to fail at start, and after `gc.freeze`.
import_module(settings.ROOT_URLCONF)


class Shell:
    """The ASGI application: passes requests to Django and keeps waiting clients connected."""

    def __init__(self, wsgi_application: Any, hub: Hub) -> None:
        self._django = Bridge(wsgi_application, threads=THREADS)
        self._for_operators = {  # a separate thread for each path
            path: Bridge(wsgi_application, threads=1, name=path) for path in FOR_OPERATORS
        }
        self._holder = Holder(self._django, hub)
        self._uploads = asyncio.Semaphore(UPLOADS_AT_ONCE)
        self._logins = asyncio.Semaphore(LOGINS_AT_ONCE)
        self._logging_in = 0
        self._memory = Memory(HELD_BYTES)
        self._watchdog = Watchdog(self._django)
        self._is_warned = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self._holder.start()
            self._watchdog.start()
            connection = connections.current.get()
            if connection is None:
                self._warn()
                await self._http(scope, receive, send, None)
                return
            connection.begin()
            try:
                await self._http(scope, receive, send, connection)
            finally:
                connection.end()
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000})

    def _warn(self) -> None:
        if not self._is_warned:
            self._is_warned = True
            log.warning("connections_without_limits")

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        self._holder.start()
        _before_stop(self._holder.close)
        storage.fail_fast()
        gc.freeze()  # garbage collections skip the objects of Django's modules
        metrics.start_buffering()  # buffer the counts of requests, so that none waits for Redis
        flushing = asyncio.create_task(_flush_often())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        flushing.cancel()
        await asyncio.to_thread(metrics.flush)
        await self._holder.aclose()
        await send({"type": "lifespan.shutdown.complete"})

    async def _http(
        self, scope: Scope, receive: Receive, send: Send, connection: Connection | None
    ) -> None:
        asked_at = time.monotonic()
        scope = {
            **scope,
            "headers": _for_django(scope["headers"]),
            SHELL: "",
            REQUEST_ID: str(uuid4()),
        }
        try:
            answer = await self._answer(scope, receive, connection)
        except bodies.Gone:
            return
        if answer.stream is not None:
            await self._holder.stream(scope, receive, send, answer, asked_at)
            return
        if answer.wait is not None:
            final = await self._holder.wait(scope, receive, answer, asked_at)
            if final is None:
                return
            answer = final
        await answer.send(send, connection, self._memory)

    # --- a request --------------------------------------------------------------------------------
    async def _answer(
        self, scope: Scope, receive: Receive, connection: Connection | None
    ) -> Answer:
        """Read the body and return Django's answer, or a refusal. Raises bodies.Gone."""
        if not scope["query_string"].isascii():
            return refusal(400, "invalid_request", "Percent-encode the query: it is not ASCII.")
        with self._memory.hold(connection) as held:
            is_whole = True
            try:
                body = await self._body(scope, receive, held)
            except bodies.Late:
                return refusal(408, "body_timeout", "The body did not arrive in time.", closes=True)
            except bodies.TooLarge as error:
                await bodies.discard(scope, receive)
                if not scope["path"].startswith("/v1/"):
                    return _too_large(scope, error.most)
                # Django refuses the size, in the error format of the route.
                is_whole, body = False, Body.withheld(bodies.announced(scope))
            held.keep()
            if connection is not None:
                connection.has_whole()
            with contextlib.closing(body.file):
                answer = await self._decided(scope, body, connection)
        if not is_whole:
            answer.headers.append((b"connection", b"close"))
        return answer

    async def _body(self, scope: Scope, receive: Receive, held: Held) -> Body:
        most = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
        length = bodies.announced(scope)
        if length > most and scope["path"].startswith("/admin/"):
            cookies = b"; ".join(value for name, value in scope["headers"] if name == b"cookie")
            if await self._django.run(is_staff, cookies.decode("latin1")):
                return await bodies.read_upload(receive, length, self._uploads)
        return await bodies.read(receive, length, held, most=most)

    async def _decided(self, scope: Scope, body: Body, connection: Connection | None) -> Answer:
        path, method = scope["path"], scope["method"]
        if path == LIVE and method in ("GET", "HEAD"):
            return whole(200, {"status": "ok"}, NEVER_CACHED)
        if path in FOR_OPERATORS:
            load = {
                "threads": self._django.threads,
                "busy": self._django.busy,
                "stuck_seconds": self._watchdog.stuck_seconds,
            }
            return await self._for_operators[path]({**scope, LOAD: load}, body)

        def is_gone() -> bool:
            return connection is not None and connection.is_lost

        if path not in LOGINS or method != "POST":
            return await self._django(scope, body, is_gone=is_gone)
        if self._logging_in >= LOGINS_AT_ONCE + LOGINS_WAITING:
            return refusal(429, "rate_limited", "Too many people log in at once.", retry_after=2)
        self._logging_in += 1
        try:
            async with self._logins:
                return await self._django(scope, body, is_gone=is_gone)
        finally:
            self._logging_in -= 1


def _too_large(scope: Scope, most: int) -> Answer:
    """Return the refusal of a body outside of /v1/: a sentence for a browser, otherwise a problem document."""
    if any(name == b"accept" and b"text/html" in value for name, value in scope["headers"]):
        return text(
            413,
            f"The form is too large: it may send {most / 1_048_576:g} MiB. Go back and send fewer or smaller files.",
        )
    return refusal(413, "body_too_large", f"Send at most {most} bytes.", closes=True)


async def _flush_often() -> None:
    """Send the metrics of this process to Redis every second, until cancelled."""
    while True:
        await asyncio.sleep(FLUSH_SECONDS)
        await asyncio.to_thread(metrics.flush)


def _for_django(headers: Any) -> list[tuple[bytes, bytes]]:
    """Return the headers without internal ones and without names with `_`, which WSGI cannot tell from `-`."""
    return [
        (name, value)
        for name, value in headers
        if b"_" not in name and not name.startswith(INTERNAL)
    ]


def _before_stop(action: Callable[[], None]) -> None:
    """Run `action` in the event loop on SIGTERM or SIGINT: uvicorn's shutdown first waits for open requests."""
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
