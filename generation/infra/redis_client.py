"""Redis client with short timeouts and a pause after a failure, so that an unreachable Redis costs milliseconds."""

import functools
import json
import logging
import time
from collections.abc import Callable
from typing import Any, TypeVar

import redis
from django.conf import settings
from redis.backoff import NoBackoff
from redis.retry import Retry

log = logging.getLogger(__name__)
T = TypeVar("T")
D = TypeVar("D")

PAUSE_SECONDS = 2.0
PROBE = "retort:probe"
_client: redis.Redis | None = None
_resume_at = 0.0


def client() -> redis.Redis:
    """Return the client of this process, which keeps a connection for each thread that uses it."""
    global _client
    if _client is None:
        _client = redis.Redis.from_url(
            settings.REDIS_URL,
            socket_timeout=0.5,
            socket_connect_timeout=0.5,
            # Once and at once, since a restart breaks the connections that are kept. The library's default is three
            # times, after pauses of seconds.
            retry=Retry(NoBackoff(), 1),
            decode_responses=True,
        )
    return _client


@functools.cache
def patient_client(seconds: int) -> redis.Redis:
    """Return a client for commands that block for up to `seconds`."""
    return redis.Redis.from_url(
        settings.REDIS_URL,
        socket_timeout=seconds + 2,
        socket_connect_timeout=0.5,
        retry=Retry(NoBackoff(), 0),
    )


def attempt(command: Callable[[redis.Redis], T], default: D) -> T | D:
    """Return what `command` returns, or `default` while Redis is unreachable. For data that may be lost."""
    if is_paused():
        return default
    try:
        return command(client())
    except redis.RedisError as error:
        pause()
        log.warning("redis_unreachable: %s", error)
        return default


def decoded(value: str | bytes) -> Any:
    """Return what this JSON value is, None if it is none: Redis may hold what others, or another version, wrote."""
    try:
        return json.loads(value)
    except ValueError:
        return None


def is_paused() -> bool:
    """Return whether a command failed a moment ago, so that another one should not be tried."""
    return time.monotonic() < _resume_at


def pause() -> None:
    """Note that a command failed."""
    global _resume_at
    _resume_at = time.monotonic() + PAUSE_SECONDS


def probe() -> None:
    """Write to Redis, since many servers that answer a PING serve nothing else. Raises RedisError."""
    client().set(PROBE, 1, ex=60)


def refusal() -> str | None:
    """Return why Redis does not take writes, None if it does."""
    try:
        probe()
    except redis.RedisError as error:
        return str(error) or type(error).__name__
    return None
