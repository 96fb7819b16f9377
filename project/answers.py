"""HTTP responses, buffered in memory and sent to the client."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from generation.realtime import hub, sse
from generation.realtime.hub import Wait
from generation.realtime.sse import Stream
from project.connections import Connection
from project.memory import Memory

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

PIECE_BYTES = 65_536
SEND_SECONDS = 60.0  # time limit for any answer, plus one second per SLOWEST bytes
SLOWEST = 16_384  # bytes per second
INTERNAL = b"x-retort-"  # prefix of our internal headers


@dataclass
class Answer:
    """A response of Django or of the shell. headers: without our internal ones."""

    status: int = 500
    headers: Headers = field(default_factory=list)
    body: bytes = b""
    wait: Wait | None = None
    stream: Stream | None = None
    is_settled: bool = False

    @classmethod
    def of(cls, status: str, headers: Iterable[tuple[str, str]], body: bytes) -> "Answer":
        """Build an answer from a WSGI response: parse and remove the internal headers."""
        answer = cls(int(status[:3]), body=body)
        for name, value in headers:
            encoded = name.strip().lower().encode("latin1")
            if not encoded.startswith(INTERNAL):
                answer.headers.append((encoded, value.strip().encode("latin1")))
            elif name == hub.HEADER:
                answer.wait = Wait.decode(value)
            elif name == sse.HEADER:
                answer.stream = Stream.decode(value)
            elif name == hub.SETTLED:
                answer.is_settled = True
        return answer

    @property
    def is_failure(self) -> bool:
        """Whether this is a temporary failure, such as a restart of PostgreSQL; it is not sent to a waiting client."""
        return self.status >= 500 and not self.is_settled

    async def send(self, send: Send, connection: Connection | None, memory: Memory) -> None:
        """Send the answer. Disconnect a client that reads too slowly, without raising."""
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        if len(self.body) <= PIECE_BYTES:
            await send({"type": "http.response.body", "body": self.body})
            return
        with memory.hold(connection) as held:
            held.add(len(self.body))
            await self._send_pieces(send, connection)

    async def _send_pieces(self, send: Send, connection: Connection | None) -> None:
        now = asyncio.get_running_loop().time
        deadline = now() + SEND_SECONDS + len(self.body) / SLOWEST
        view = memoryview(self.body)
        for start in range(0, len(view), PIECE_BYTES):
            # One piece takes at most `Connection.write_seconds`. After `abort` uvicorn ignores further messages.
            if now() > deadline and connection is not None:
                connection.abort()
            piece = view[start : start + PIECE_BYTES]
            is_last = start + PIECE_BYTES >= len(view)
            await send({"type": "http.response.body", "body": piece, "more_body": not is_last})


def refusal(
    status: int, code: str, detail: str, *, retry_after: int | None = None, closes: bool = False
) -> Answer:
    """Return an error of the shell as a problem document. closes: close the connection, whose request was not read."""
    body = {
        "type": f"/v1/problems/{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "code": code,
        "retryable": status in (408, 429),
    }
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"x-content-type-options", b"nosniff"),
        (b"cache-control", b"no-store"),
    ]
    if retry_after is not None:
        headers.append((b"retry-after", str(retry_after).encode()))
    if closes:
        headers.append((b"connection", b"close"))
    return whole(status, body, headers)


def text(status: int, said: str) -> Answer:
    """Return an error of the shell as plain text. It closes the connection, because the request was not read."""
    content = said.encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"x-content-type-options", b"nosniff"),
        (b"cache-control", b"no-store"),
        (b"connection", b"close"),
        (b"content-length", str(len(content)).encode()),
    ]
    return Answer(status, headers, content)


def whole(status: int, body: Any, headers: Headers) -> Answer:
    """Return an answer with a JSON body."""
    content = json.dumps(body).encode()
    return Answer(status, [*headers, (b"content-length", str(len(content)).encode())], content)
