"""Faults of PostgreSQL, and servers that are down or frozen."""

import signal
import subprocess
import sys
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

import psycopg2

from tests.acceptance.stack import ROOT, wait_for
from tests.chaos.disk import may_mount
from tests.chaos.faults.fault import Fault
from tests.chaos.servers import CUT, PGBOUNCER, PostgresServer, Repeating
from tests.chaos.stack import Site

ARCHIVE = "retort.tar"


@dataclass
class ServerDown(Fault):
    """A server that is killed, and started at the end."""

    server: str = "redis"

    def is_usable(self) -> bool:
        return self.server != "pgbouncer" or PGBOUNCER is not None

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


@dataclass
class DiskFull(Fault):
    """A full disk under the server, which ends when it cannot write its log, and is started at the end."""

    _full: ExitStack = field(default_factory=ExitStack, repr=False)

    def is_usable(self) -> bool:
        return may_mount()

    def begin(self, site: Site) -> None:
        assert site.disk
        self._full.enter_context(site.disk.full())
        wait_for(lambda: self._refuses(site), "PostgreSQL refuses to write")

    def end(self, site: Site) -> None:
        self._full.close()
        site.postgres.start()

    def _refuses(self, site: Site) -> bool:
        try:
            site.postgres.query("CREATE TEMP TABLE rows AS SELECT generate_series(1, 100000)")
        except psycopg2.Error:
            return True
        return False


@dataclass
class FailedOver(Fault):
    """The primary is lost. At the end its synchronous standby is promoted, and PgBouncer connects to that."""

    _standby: PostgresServer | None = field(default=None, repr=False)
    _number: int = 0

    def is_usable(self) -> bool:
        return PGBOUNCER is not None

    def begin(self, site: Site) -> None:
        self._number += 1
        self._standby = site.postgres.standby(site.databases / f"standby-{self._number}")
        site.postgres.crash()

    def end(self, site: Site) -> None:
        assert self._standby and site.pgbouncer
        site.postgres.fail_over(self._standby)
        site.pgbouncer.end()
        site.pgbouncer.prepare()
        site.pgbouncer.start()


@dataclass
class PostgresRestored(Fault):
    """Every table is replaced by a backup while all processes run, as in a move to another server.

    They can only read from before the backup until after the restoration, so that no accepted job is missing in it.
    """

    def begin(self, site: Site) -> None:
        site.postgres.set("default_transaction_read_only", "on")
        site.postgres.cut()
        (site.folder / ARCHIVE).unlink(missing_ok=True)
        self._manage(site, "backup")

    def end(self, site: Site) -> None:
        # It is refused until the workers' heartbeats, which they cannot write, are old.
        wait_for(lambda: self._manage(site, "restore", "--replace"), "the backup is restored")
        site.postgres.set("default_transaction_read_only", None)
        site.postgres.cut()

    def _manage(self, site: Site, command: str, *options: str) -> bool:
        """Run a command that may write, with the archive as its argument."""
        done = subprocess.run(
            [sys.executable, "manage.py", command, str(site.folder / ARCHIVE), *options],
            cwd=ROOT,
            env={
                **site.stack.manage_env(),
                "DATABASE_URL": site.postgres.url,
                "PGOPTIONS": "-c default_transaction_read_only=off",
            },
            capture_output=True,
            text=True,
        )
        is_in_use = "Workers use this database" in done.stderr
        assert done.returncode == 0 or is_in_use, done.stderr[-3000:]
        return not is_in_use
