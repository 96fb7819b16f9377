"""Bound on the bytes of requests and answers that are in memory.

When they are too many, the connection ends whose client has taken longest to send its body or to read its answer: a
client that sends and reads as clients do has gone long before.
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
        """Count more bytes, and end other connections while there are too many."""
        if size:
            self._memory.add(self, size)

    def keep(self) -> None:
        """The client has sent everything: its connection does not end for the sake of others."""
        self._memory.keep(self)


class Memory:
    """All bytes that are held. limit: in bytes. size: their number."""

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
