"""Connections of clients: uvicorn's HTTP protocol with deadlines and a limit.

    uvicorn project.asgi:application --http project.connections:Connection --ws none

uvicorn bounds the pause after an answer only. Here a connection also ends when its next request does not begin in
time, when its client does not read, and, if it is the oldest that waits for a request, when there are too many.
Overrides methods of `asyncio.Protocol` and no others.
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

MOST_FILES = 65_536  # the limit of open files is raised to this, where the system allows it
SPARE_FILES = 256  # for the connections to PostgreSQL and Redis, and for files
LOOK_SECONDS = 0.5
LOG_SECONDS = 60.0


class Connection(HttpToolsProtocol):
    """A connection of a client. The shell calls `begin` and `end` around each request."""

    head_seconds: ClassVar[float] = 15.0  # from the connection, or the last answer, to a whole head
    write_seconds: ClassVar[float] = 30.0  # while the client reads less than uvicorn's buffer
    close_seconds: ClassVar[float] = 20.0  # for the rest of an answer, after the connection closes
    most: ClassVar[int] = 16_384  # less where the limit of open files is lower
    head_bytes: ClassVar[int] = 65_536

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._raw = transport
        self._requests = 0
        self._head = 0  # bytes that belong to no request yet
        self._reads_body = False
        self._unwritten_until = self._closed_until = inf
        self.is_lost = False
        _table.add(self)
        self._rest(_table.fresh)
        if hasattr(
            socket, "TCP_USER_TIMEOUT"
        ):  # Linux: also after the process has closed the connection
            self._set(socket.TCP_USER_TIMEOUT, round(1000 * self.write_seconds))
        super().connection_made(cast(asyncio.Transport, _Transport(transport, self)))

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._reads_body:
            if self._head > self.head_bytes:
                self.abort()
                return
            self._head += len(data)
        current.set(self)  # for the tasks that uvicorn starts in this call
        super().data_received(data)

    def pause_writing(self) -> None:
        self._unwritten_until = self.loop.time() + self.write_seconds
        super().pause_writing()

    def resume_writing(self) -> None:
        self._unwritten_until = inf
        super().resume_writing()

    # --- for the shell ----------------------------------------------------------------------------
    def begin(self) -> None:
        """A whole head has arrived; its body comes next."""
        self._requests += 1
        self._reads_body = True
        _table.fresh.pop(self, None)
        _table.rested.pop(self, None)

    def has_whole(self) -> None:
        """The body has arrived; what comes next is another request."""
        self._reads_body = False
        self._head = 0

    def end(self) -> None:
        """The answer was handed over."""
        self.has_whole()
        self._requests -= 1
        if not self._requests and not self.is_lost:
            self._rest(_table.rested)

    def abort(self) -> None:
        """Close the connection without waiting for its client, and drop what the system holds for it."""
        self._leave()
        self._set(socket.SO_LINGER, struct.pack("ii", 1, 0), level=socket.SOL_SOCKET)
        self._raw.abort()

    # --- deadlines --------------------------------------------------------------------------------
    def closing(self) -> None:
        """The transport closes when the client has read the rest."""
        self._closed_until = min(self._closed_until, self.loop.time() + self.close_seconds)

    def check(self, now: float) -> None:
        """End the connection if one of its deadlines has passed."""
        if now > self._unwritten_until or now > self._closed_until:
            self.abort()

    def _rest(self, place: "OrderedDict[Connection, float]") -> None:
        place[self] = self.loop.time() + self.head_seconds

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
    """All connections, and those without a request: since the beginning (`fresh`) or since an answer (`rested`)."""

    def __init__(self) -> None:
        self.open: dict[Connection, None] = {}
        self.fresh: OrderedDict[Connection, float] = OrderedDict()
        self.rested: OrderedDict[Connection, float] = OrderedDict()
        self._looks = False
        self._logged_at = -inf
        self._files = _raise_limit() - SPARE_FILES

    def add(self, connection: Connection) -> None:
        self.open[connection] = None
        if not self._looks:
            self._looks = True
            connection.loop.call_later(LOOK_SECONDS, self._look, connection.loop)
        if len(self.open) > min(connection.most, self._files):
            oldest = next(iter(self.fresh), None) or next(iter(self.rested), None) or connection
            # Not in this call: the new connection has not been made yet.
            connection.loop.call_soon(oldest.abort)
            self.remove(oldest)
            self._log(connection.loop.time())

    def remove(self, connection: Connection) -> None:
        for table in (self.open, self.fresh, self.rested):
            table.pop(connection, None)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for waiting in (self.fresh, self.rested):
            while waiting and next(iter(waiting.values())) < now:
                connection, _ = waiting.popitem(last=False)
                connection.transport.close()
        for connection in list(self.open):
            connection.check(now)
        self._looks = bool(self.open)
        if self._looks:
            loop.call_later(LOOK_SECONDS, self._look, loop)

    def _log(self, now: float) -> None:
        if now > self._logged_at + LOG_SECONDS:
            self._logged_at = now
            log.warning("connections_full", connections=len(self.open))


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
