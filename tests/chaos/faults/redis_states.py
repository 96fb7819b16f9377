"""Faults of Redis: refused commands, lost data, foreign messages."""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field

import redis

from tests.acceptance.stack import wait_for
from tests.chaos.faults.fault import Fault
from tests.chaos.servers import Repeating
from tests.chaos.stack import Site
from tests.redis_states import RedisStates


@dataclass
class RedisState(Fault):
    """A Redis that refuses commands. state: enters that state."""

    state: Callable[[RedisStates], AbstractContextManager[None]] = RedisStates.read_only
    _left: ExitStack = field(default_factory=ExitStack, repr=False)

    def begin(self, site: Site) -> None:
        states = RedisStates(site.redis.server)
        self._left.callback(states.close)
        self._left.enter_context(self.state(states))
        wait_for(lambda: _refuses(site), f"{self.name}: Redis refuses to write")

    def end(self, site: Site) -> None:
        self._left.close()


def _refuses(site: Site) -> bool:
    try:
        with site.redis.client() as client:
            client.lpush("chaos:probe", "x")
            client.delete("chaos:probe")
    except redis.RedisError:
        return True
    return False


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
