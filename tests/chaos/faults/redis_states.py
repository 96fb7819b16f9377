"""Faults of Redis: refused commands, lost data, foreign messages."""

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import redis

from deploy.local import ports
from tests.acceptance.stack import wait_for
from tests.chaos.faults.fault import Fault
from tests.chaos.servers import Repeating
from tests.chaos.stack import Site

READONLY = (("REPLICAOF", ports.HOST, "1"),)  # a replica of a primary that does not exist
WRITABLE = (("REPLICAOF", "NO", "ONE"),)


def config(name: str, value: int) -> tuple[tuple[Any, ...], ...]:
    return (("CONFIG", "SET", name, value),)


@dataclass
class RedisSet(Fault):
    """A Redis that refuses commands. begins, ends: commands that begin and end that state."""

    begins: tuple[tuple[Any, ...], ...] = ()
    ends: tuple[tuple[Any, ...], ...] = ()

    def begin(self, site: Site) -> None:
        self._do(site, self.begins)

    def end(self, site: Site) -> None:
        self._do(site, self.ends)

    def _do(self, site: Site, commands: tuple[tuple[Any, ...], ...]) -> None:
        with site.redis.client() as client:
            for command in commands:
                client.execute_command(*command)


@dataclass
class RedisMisconf(Fault):
    """A Redis that cannot write its snapshot: a folder has the snapshot's name."""

    def begin(self, site: Site) -> None:
        folder = site.home.redis / "dump.rdb"
        folder.unlink(missing_ok=True)
        (folder / "in-the-way").mkdir(parents=True)
        with site.redis.client() as client:
            client.config_set("save", "3600 1")
            with suppress(Exception):
                client.bgsave()
            wait_for(
                lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err",
                "the snapshot failed",
                seconds=60,
            )

    def end(self, site: Site) -> None:
        folder = site.home.redis / "dump.rdb"
        (folder / "in-the-way").rmdir()
        folder.rmdir()
        with site.redis.client() as client:
            client.config_set("save", "")


@dataclass
class RedisPassword(Fault):
    """A changed password, with the connections of all clients closed."""

    def begin(self, site: Site) -> None:
        with site.redis.client() as client:
            client.config_set("requirepass", "another")
            for kind in ("normal", "pubsub"):
                client.client_kill_filter(_type=kind, skipme=True)

    def end(self, site: Site) -> None:
        server = site.redis.server
        with redis.Redis(ports.HOST, server.port, password="another") as client:
            client.config_set("requirepass", server.password)


@dataclass
class RedisFlushed(Fault):
    """Repeated FLUSHALL."""

    _repeating: Repeating | None = field(default=None, repr=False)

    def begin(self, site: Site) -> None:
        def flush() -> None:
            with site.redis.client() as client:
                client.flushall()

        flush()
        self._repeating = Repeating(flush, 0.5)

    def end(self, site: Site) -> None:
        assert self._repeating
        self._repeating.stop()


INVALID_MESSAGES = (b"no message", b"{}", b"\xff")


@dataclass
class Garbage(Fault):
    """Foreign messages: false ends of waiting jobs, and invalid items in Celery's queues."""

    _repeating: Repeating | None = field(default=None, repr=False)

    def begin(self, site: Site) -> None:
        with site.redis.client() as client:
            for queue in ("generation", "light", "webhooks", "encode"):
                client.lpush(queue, *INVALID_MESSAGES)

        def send() -> None:
            jobs = site.postgres.query(
                "SELECT id FROM generation_job WHERE finished_at IS NULL ORDER BY created_at DESC LIMIT 20"
            )
            with site.redis.client() as client:
                for (job,) in jobs:
                    for word in ("succeeded", "failed", "nonsense", b"\xff\xfe", '{"version": 99}'):
                        client.publish(f"retort:job:{job}", word)

        self._repeating = Repeating(send, 0.5)

    def end(self, site: Site) -> None:
        assert self._repeating
        self._repeating.stop()
