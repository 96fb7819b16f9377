"""Faults of PostgreSQL, and servers that are down or frozen."""

import signal
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import psycopg2

from tests.chaos.faults.fault import Fault
from tests.chaos.servers import CUT, Repeating
from tests.chaos.stack import Site


@dataclass
class ServerDown(Fault):
    """A server that is killed, and started at the end."""

    server: str = "redis"

    def begin(self, site: Site) -> None:
        getattr(site, self.server).end()

    def end(self, site: Site) -> None:
        getattr(site, self.server).start()


@dataclass
class ServerFrozen(Fault):
    """A server that takes connections and answers nothing."""

    server: str = "redis"

    def begin(self, site: Site) -> None:
        getattr(site, self.server).freeze()

    def end(self, site: Site) -> None:
        getattr(site, self.server).thaw()


@dataclass
class SessionsCut(Fault):
    """Every session is ended several times a second."""

    _repeating: Repeating | None = field(default=None, repr=False)

    def begin(self, site: Site) -> None:
        self._repeating = Repeating(site.postgres.cut, 0.3)

    def end(self, site: Site) -> None:
        assert self._repeating
        self._repeating.stop()


@dataclass
class PostgresReadOnly(Fault):
    """A read-only server, as after a demotion."""

    def begin(self, site: Site) -> None:
        site.postgres.set("default_transaction_read_only", "on")
        site.postgres.cut()

    def end(self, site: Site) -> None:
        site.postgres.set("default_transaction_read_only", None)
        site.postgres.cut()


@dataclass
class ConnectionsUsedUp(Fault):
    """Other clients hold every connection of the server; the stack's connections are cut, and it gets no new ones."""

    _held: list[Any] = field(default_factory=list, repr=False)
    _repeating: Repeating | None = field(default=None, repr=False)

    def begin(self, site: Site) -> None:
        first = site.postgres.connect()
        self._held.append(first)

        def take() -> None:
            with first.cursor() as cursor:
                cursor.execute(CUT)
            while True:  # until the server refuses
                self._held.append(site.postgres.connect())

        with suppress(psycopg2.Error):
            take()
        self._repeating = Repeating(take, 0.2)

    def end(self, site: Site) -> None:
        assert self._repeating
        self._repeating.stop()
        for connection in self._held:
            connection.close()
        self._held.clear()


@dataclass
class PostgresRestarted(Fault):
    """A fast shutdown, and a start at the end."""

    def begin(self, site: Site) -> None:
        site.postgres.end(signal.SIGINT)

    def end(self, site: Site) -> None:
        site.postgres.start()
