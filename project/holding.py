"""Clients that wait for the end of a job, or watch it: each takes a connection and no thread.

A view requests this with a header of its answer (`generation.realtime.hub`, `generation.realtime.sse`). The request is
repeated when the job has changed, every few seconds because messages may be lost, and at the deadline.
"""

import asyncio
import contextlib
import time
from functools import partial
from urllib.parse import unquote, urlsplit

from django.conf import settings

from generation.realtime.hub import SHELL, Hub
from generation.realtime.sse import Streams
from project.answers import Answer, Send
from project.bodies import Body, Receive, Scope
from project.bridge import Bridge

REPEATED_AT_ONCE = 4  # at most; the other threads are left to new requests
RECHECK_SECONDS = 5.0  # a message is lost when its sender cannot reach Redis
RECHECK_DISCONNECTED_SECONDS = 1.0
RECHECKS_PER_SECOND = 100  # at most, for all clients together
STOP_SECONDS = 2.0


class Holder:
    """Keeps waiting clients connected. django: runs their repeated requests."""

    def __init__(self, django: Bridge, hub: Hub) -> None:
        self._django = django
        self._hub = hub
        self._streams = Streams(settings.REDIS_URL, hub, recheck_seconds=self._recheck_seconds)
        self._repeated = asyncio.Semaphore(REPEATED_AT_ONCE)

    def start(self) -> None:
        """Call this in the event loop."""
        self._hub.start()

    def close(self) -> None:
        """Answer waiting clients with the last known state, and disconnect watching ones. The process stops."""
        self._hub.close()
        self._streams.close()

    async def aclose(self) -> None:
        self.close()
        await self._streams.aclose()

    async def wait(
        self, scope: Scope, receive: Receive, answer: Answer, asked_at: float
    ) -> Answer | None:
        """Return the final answer, or None if the client disconnects."""
        gone = asyncio.ensure_future(_disconnected(receive))
        final = asyncio.ensure_future(self._final_answer(scope, answer, asked_at))
        try:
            await asyncio.wait((gone, final), return_when=asyncio.FIRST_COMPLETED)
            return final.result() if final.done() else None
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
                    newer = await self._repeat(request)
                answer = answer if newer.is_failure else newer
            if answer.wait is None:
                break
        if answer.wait is not None:
            answer.status = answer.wait.status or answer.status
        return answer

    async def stream(
        self, scope: Scope, receive: Receive, send: Send, answer: Answer, asked_at: float
    ) -> None:
        """Send events up to the last one; stop when the client disconnects."""
        stream = answer.stream
        if stream is None:
            return
        headers = [(name, value) for name, value in answer.headers if name != b"content-length"]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})

        async def write(content: bytes) -> None:
            await send({"type": "http.response.body", "body": content, "more_body": True})

        ask = partial(self._repeat, _repeated(scope, stream.then))
        gone = asyncio.ensure_future(_disconnected(receive))
        sent = asyncio.ensure_future(
            self._streams.run(answer, asked_at=asked_at, ask=ask, write=write)
        )
        try:
            await asyncio.wait((gone, sent), return_when=asyncio.FIRST_COMPLETED)
            with contextlib.suppress(TimeoutError):  # the client reads nothing
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

    async def _repeat(self, request: Scope) -> Answer:
        async with self._repeated:
            return await self._django(request, Body.empty())


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


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
