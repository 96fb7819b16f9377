"""Connections of clients: uvicorn's HTTP protocol with deadlines and limits.

    uvicorn project.asgi:application --http project.connections:Connection --ws none

uvicorn bounds only the idle time after an answer. Here a connection is also closed when its request headers are late
or too large, when its client does not read, and, longest wait for the client first, when there are too many
connections. Overrides methods of `asyncio.Protocol` and callbacks of httptools' parser.
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

PENDING_BYTES = 33_554_432  # limit for incomplete request headers, all connections together
MAX_FILES = 65_536  # the limit of open files is raised to this, where the system allows it
SPARE_FILES = 256  # for the connections to PostgreSQL and Redis, and for files
CHECK_SECONDS = 0.5
LOG_SECONDS = 60.0


class Refused(ValueError):
    """The headers are too large, or too many requests are pipelined. uvicorn answers 400 and closes."""


class Connection(HttpToolsProtocol):
    """A client's connection. The shell calls the methods of the section "for the shell"."""

    head_seconds: ClassVar[float] = 15.0  # from connecting, or the last answer, to complete headers
    write_seconds: ClassVar[float] = 30.0  # while uvicorn's write buffer is full
    close_seconds: ClassVar[float] = 20.0  # for the rest of an answer, after the connection closes
    head_bytes: ClassVar[int] = (
        65_536  # limit for the headers, the trailers, and the chunk framing of a body
    )
    pipelined: ClassVar[int] = 16  # limit for pipelined requests
    most: ClassVar[int] = 16_384  # connections; fewer where the limit of open files is lower

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
        _table.count_pending(self, self.pending + len(data))
        current.set(self)  # for the tasks that uvicorn starts in this call
        super().data_received(data)

    def pause_writing(self) -> None:
        self._write_until = self.loop.time() + self.write_seconds
        _table.mark_waiting(self)
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
        self._head += len(name) + len(value) + 32  # an empty header takes memory too
        if self._head > self.head_bytes:
            raise Refused
        super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        _table.count_pending(self, 0)
        super().on_body(body)

    # --- for the shell ----------------------------------------------------------------------------
    def begin(self) -> None:
        """Note that complete headers have arrived; the body comes next."""
        self._begun += 1
        self._queued -= 1
        _table.count_pending(self, 0)
        self._head_until = inf
        _table.mark_waiting(self)

    def has_whole(self) -> None:
        """Note that the body has arrived: the client waits for the server."""
        _table.count_pending(self, 0)
        _table.mark_busy(self)

    def end(self) -> None:
        """Note that the answer was passed to uvicorn."""
        self._begun -= 1
        _table.count_pending(self, 0)
        if not self._begun and not self.is_lost:
            self._head_until = self.loop.time() + self.head_seconds
            _table.mark_waiting(self)

    def abort(self) -> None:
        """Close the connection without waiting for its client, and discard its unsent data."""
        self._leave()
        self._set(socket.SO_LINGER, struct.pack("ii", 1, 0), level=socket.SOL_SOCKET)
        self._raw.abort()

    # --- deadlines --------------------------------------------------------------------------------
    def closing(self) -> None:
        """Start the deadline for the client to read the rest; the transport closes when it has."""
        self._close_until = min(self._close_until, self.loop.time() + self.close_seconds)

    def check(self, now: float) -> None:
        """Close the connection if one of its deadlines has passed."""
        if now > self._write_until or now > self._close_until:
            self.abort()
        elif now > self._head_until:
            self._head_until = inf
            self.transport.close()

    def _set(self, option: int, value: int | bytes, *, level: int = socket.IPPROTO_TCP) -> None:
        with contextlib.suppress(OSError):  # a Unix socket, or an already closed one
            self._raw.get_extra_info("socket").setsockopt(level, option, value)

    def _leave(self) -> None:
        self.is_lost = True
        _table.remove(self)


class _Transport:
    """The transport given to uvicorn. It ignores writes to a closed connection.

    uvicorn notices a disconnect only in the newest pipelined request; writes of the others would raise in uvloop.
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
    """All connections, and the ones that wait for their client, longest wait first."""

    def __init__(self) -> None:
        self._open: dict[Connection, None] = {}
        self._waiting: OrderedDict[Connection, None] = OrderedDict()
        self._is_checking = False
        self._logged_at = -inf
        self._files = _raise_limit() - SPARE_FILES
        self._pending: OrderedDict[Connection, None] = OrderedDict()  # longest wait first
        self._pending_bytes = 0

    def add(self, connection: Connection) -> None:
        self._open[connection] = None
        if not self._is_checking:
            self._is_checking = True
            connection.loop.call_later(CHECK_SECONDS, self._check_all, connection.loop)
        if len(self._open) > min(connection.most, self._files):
            self._drop(next(iter(self._waiting), connection))
        self.mark_waiting(connection)

    def count_pending(self, connection: Connection, size: int) -> None:
        """Count bytes of a request whose headers are incomplete."""
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

    def mark_waiting(self, connection: Connection) -> None:
        """Note that the connection now waits for its client."""
        if connection in self._open:
            self._waiting[connection] = None
            self._waiting.move_to_end(connection)

    def mark_busy(self, connection: Connection) -> None:
        self._waiting.pop(connection, None)

    def remove(self, connection: Connection) -> None:
        self.count_pending(connection, 0)
        self._open.pop(connection, None)
        self._waiting.pop(connection, None)

    def _drop(self, connection: Connection) -> None:
        self.remove(connection)
        # Deferred: `connection_made` of a new connection has not run yet.
        connection.loop.call_soon(connection.abort)
        self._log(connection.loop.time())

    def _check_all(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for connection in list(self._open):
            connection.check(now)
        self._is_checking = bool(self._open)
        if self._is_checking:
            loop.call_later(CHECK_SECONDS, self._check_all, loop)

    def _log(self, now: float) -> None:
        if now > self._logged_at + LOG_SECONDS:
            self._logged_at = now
            log.warning("connections_full", connections=len(self._open))


def _raise_limit() -> int:
    """Raise the limit of open files as far as the system allows, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_FILES if hard == resource.RLIM_INFINITY else min(MAX_FILES, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return MAX_FILES if soft == resource.RLIM_INFINITY else soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):  # macOS allows less than it reports
        return soft
    return wanted


_table = _Table()
current: ContextVar[Connection | None] = ContextVar("current", default=None)
