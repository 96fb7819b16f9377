"""Limit for the bytes of requests and answers in memory.

Above the limit, the connection whose client has been sending its body or reading its answer for the longest time is
closed. A client of normal speed is never the oldest: it finishes long before.
"""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from project.connections import Connection

log = structlog.get_logger(__name__)


class Held:
    """The bytes of one request or answer."""

    def __init__(self, memory: "Memory", connection: Connection | None) -> None:
        self._memory = memory
        self.connection = connection
        self.size = 0

    def add(self, size: int) -> None:
        """Count more bytes, and close other connections while the limit is exceeded."""
        if size:
            self._memory.add(self, size)

    def keep(self) -> None:
        """Note that the client has sent everything: its connection is no longer closed to free memory."""
        self._memory.keep(self)


class Memory:
    """Total of the held bytes. limit, size: in bytes."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0
        self._slow: OrderedDict[Held, None] = (
            OrderedDict()
        )  # whose clients send or read, the longest first

    @contextmanager
    def hold(self, connection: Connection | None) -> Iterator[Held]:
        held = Held(self, connection)
        try:
            yield held
        finally:
            self._forget(held)

    def add(self, held: Held, size: int) -> None:
        if held.connection is not None and held.connection.is_lost:
            return
        self._slow.setdefault(held)
        held.size += size
        self.size += size
        while self.size > self.limit and self._slow:
            oldest = next(iter(self._slow))
            log.warning("connection_ended_for_memory", held_bytes=oldest.size)
            self._forget(oldest)
            if oldest.connection is not None:
                oldest.connection.abort()

    def keep(self, held: Held) -> None:
        self._slow.pop(held, None)

    def _forget(self, held: Held) -> None:
        self._slow.pop(held, None)
        self.size -= held.size
        held.size = 0
