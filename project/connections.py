"""Connections of clients: uvicorn's HTTP protocol with deadlines and limits.

    uvicorn project.asgi:application --http project.connections:Connection --ws none

uvicorn bounds the pause after an answer only. Here a connection also ends when its next request does not begin in
time, when its client does not read, when a head is too large, and, if it is the one that has waited longest for its
client, when there are too many. Overrides methods of `asyncio.Protocol` and callbacks of httptools' parser.
"""

import asyncio
import contextlib
import resource
import socket
import struct
from collections import OrderedDict
from contextvars import ContextVar
from math import inf
from typing import Any, ClassVar, cast

import structlog
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

log = structlog.get_logger(__name__)

PENDING_BYTES = 33_554_432  # of heads that are not whole, all connections together
MOST_FILES = 65_536  # the limit of open files is raised to this, where the system allows it
SPARE_FILES = 256  # for the connections to PostgreSQL and Redis, and for files
LOOK_SECONDS = 0.5
LOG_SECONDS = 60.0


class Refused(ValueError):
    """The head is too large, or too many requests wait for their answers. uvicorn answers 400 and closes."""


class Connection(HttpToolsProtocol):
    """A connection of a client. The shell calls the methods of the second part."""

    head_seconds: ClassVar[float] = 15.0  # from the connection, or the last answer, to a whole head
    write_seconds: ClassVar[float] = 30.0  # while the client reads less than uvicorn's buffer
    close_seconds: ClassVar[float] = 20.0  # for the rest of an answer, after the connection closes
    head_bytes: ClassVar[int] = (
        65_536  # of a head; of trailers; of what is between the bytes of a body
    )
    pipelined: ClassVar[int] = 16  # requests that wait for the answer to the one before
    most: ClassVar[int] = 16_384  # less where the limit of open files is lower

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._raw = transport
        self._begun = self._queued = 0
        self._head = self.pending = 0
        self._head_until = self.loop.time() + self.head_seconds
        self._write_until = self._close_until = inf
        self.is_lost = False
        _table.add(self)
        if hasattr(
            socket, "TCP_USER_TIMEOUT"
        ):  # Linux: also after the process has closed the connection
            self._set(socket.TCP_USER_TIMEOUT, round(1000 * self.write_seconds))
        super().connection_made(cast(asyncio.Transport, _Transport(transport, self)))

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.pending > self.head_bytes:
            self.abort()
            return
        _table.pend(self, self.pending + len(data))
        current.set(self)  # for the tasks that uvicorn starts in this call
        super().data_received(data)

    def pause_writing(self) -> None:
        self._write_until = self.loop.time() + self.write_seconds
        _table.waits(self)
        super().pause_writing()

    def resume_writing(self) -> None:
        self._write_until = inf
        super().resume_writing()

    # --- the parser -------------------------------------------------------------------------------
    def on_message_begin(self) -> None:
        self._head = 0
        self._queued += 1
        if self._queued > self.pipelined:
            raise Refused
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head += len(name) + len(value) + 32  # an empty one costs memory too
        if self._head > self.head_bytes:
            raise Refused
        super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        _table.pend(self, 0)
        super().on_body(body)

    # --- for the shell ----------------------------------------------------------------------------
    def begin(self) -> None:
        """A whole head has arrived; its body comes next."""
        self._begun += 1
        self._queued -= 1
        _table.pend(self, 0)
        self._head_until = inf
        _table.waits(self)

    def has_whole(self) -> None:
        """The body has arrived: the client waits for the server."""
        _table.pend(self, 0)
        _table.works(self)

    def end(self) -> None:
        """The answer was handed over."""
        self._begun -= 1
        _table.pend(self, 0)
        if not self._begun and not self.is_lost:
            self._head_until = self.loop.time() + self.head_seconds
            _table.waits(self)

    def abort(self) -> None:
        """Close the connection without waiting for its client, and drop what the system holds for it."""
        self._leave()
        self._set(socket.SO_LINGER, struct.pack("ii", 1, 0), level=socket.SOL_SOCKET)
        self._raw.abort()

    # --- deadlines --------------------------------------------------------------------------------
    def closing(self) -> None:
        """The transport closes when the client has read the rest."""
        self._close_until = min(self._close_until, self.loop.time() + self.close_seconds)

    def check(self, now: float) -> None:
        """End the connection if one of its deadlines has passed."""
        if now > self._write_until or now > self._close_until:
            self.abort()
        elif now > self._head_until:
            self._head_until = inf
            self.transport.close()

    def _set(self, option: int, value: int | bytes, *, level: int = socket.IPPROTO_TCP) -> None:
        with contextlib.suppress(OSError):  # a Unix socket, or one that is closed already
            self._raw.get_extra_info("socket").setsockopt(level, option, value)

    def _leave(self) -> None:
        self.is_lost = True
        _table.remove(self)


class _Transport:
    """The transport that uvicorn sees. It ignores what uvicorn writes to a connection that has ended.

    uvicorn notices a disconnect in the newest of pipelined requests only, and uvloop raises in the others.
    """

    def __init__(self, transport: asyncio.Transport, connection: Connection) -> None:
        self._transport = transport
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(data)

    def close(self) -> None:
        self._transport.close()
        self._connection.closing()


class _Table:
    """All connections, and those that wait for their client, the longest wait first."""

    def __init__(self) -> None:
        self._open: dict[Connection, None] = {}
        self._waiting: OrderedDict[Connection, None] = OrderedDict()
        self._looks = False
        self._logged_at = -inf
        self._files = _raise_limit() - SPARE_FILES
        self._pending: OrderedDict[Connection, None] = OrderedDict()  # the longest first
        self._pending_bytes = 0

    def add(self, connection: Connection) -> None:
        self._open[connection] = None
        if not self._looks:
            self._looks = True
            connection.loop.call_later(LOOK_SECONDS, self._look, connection.loop)
        if len(self._open) > min(connection.most, self._files):
            self._drop(next(iter(self._waiting), connection))
        self.waits(connection)

    def pend(self, connection: Connection, size: int) -> None:
        """Count the bytes of a connection that belong to no request yet."""
        if connection not in self._open or connection.pending == size:
            return
        self._pending_bytes += size - connection.pending
        connection.pending = size
        if not size:
            self._pending.pop(connection, None)
            return
        self._pending.setdefault(connection)
        while self._pending_bytes > PENDING_BYTES:
            self._drop(next(iter(self._pending)))

    def waits(self, connection: Connection) -> None:
        """Note that the connection waits for its client from now on."""
        if connection in self._open:
            self._waiting[connection] = None
            self._waiting.move_to_end(connection)

    def works(self, connection: Connection) -> None:
        self._waiting.pop(connection, None)

    def remove(self, connection: Connection) -> None:
        self.pend(connection, 0)
        self._open.pop(connection, None)
        self._waiting.pop(connection, None)

    def _drop(self, connection: Connection) -> None:
        self.remove(connection)
        # Not in this call: a new connection has not been made yet.
        connection.loop.call_soon(connection.abort)
        self._log(connection.loop.time())

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for connection in list(self._open):
            connection.check(now)
        self._looks = bool(self._open)
        if self._looks:
            loop.call_later(LOOK_SECONDS, self._look, loop)

    def _log(self, now: float) -> None:
        if now > self._logged_at + LOG_SECONDS:
            self._logged_at = now
            log.warning("connections_full", connections=len(self._open))


def _raise_limit() -> int:
    """Raise the limit of open files as far as the system allows, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(MOST_FILES, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return MOST_FILES if soft == resource.RLIM_INFINITY else soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):  # macOS allows less than it says
        return soft
    return wanted


_table = _Table()
current: ContextVar[Connection | None] = ContextVar("current", default=None)
