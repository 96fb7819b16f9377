"""Bound on the bytes of requests and answers that clients leave in memory.

When they are too many, the connection that has held its bytes longest ends: a client that sends and reads as clients do
has gone long before.
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
        """Count more bytes, and end the oldest connections while there are too many."""
        self._memory.add(self, size)


class Memory:
    """All bytes that are held. limit: in bytes."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0
        self._held: OrderedDict[Held, None] = OrderedDict()

    @contextmanager
    def hold(self, connection: Connection | None) -> Iterator[Held]:
        held = Held(self, connection)
        self._held[held] = None
        try:
            yield held
        finally:
            self._forget(held)

    def add(self, held: Held, size: int) -> None:
        if held not in self._held:  # its connection was ended
            return
        held.size += size
        self.size += size
        while self.size > self.limit and self._held:
            oldest = next(iter(self._held))
            self._forget(oldest)
            log.warning("connection_ended_for_memory", held_bytes=oldest.size)
            if oldest.connection is not None:
                oldest.connection.abort()

    def _forget(self, held: Held) -> None:
        if held in self._held:
            del self._held[held]
            self.size -= held.size
