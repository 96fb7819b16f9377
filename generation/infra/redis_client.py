"""Redis client with short timeouts and a pause after a failure, so that an unreachable Redis delays little."""

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
    """Return the client of this process, which keeps one connection per thread."""
    global _client
    if _client is None:
        _client = redis.Redis.from_url(
            settings.REDIS_URL,
            socket_timeout=0.5,
            socket_connect_timeout=0.5,
            # Retry once, immediately, since a restart of Redis breaks pooled connections. The library's default is
            # three times, after pauses of seconds.
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
    """Return the result of `command`, or `default` while Redis is unreachable. For data that may be lost."""
    if is_paused():
        return default
    try:
        return command(client())
    except redis.RedisError as error:
        pause()
        log.warning("redis_unreachable: %s", error)
        return default


def decoded(value: str | bytes) -> Any:
    """Return the decoded JSON value, None if it is invalid: other programs or versions may have written it."""
    try:
        return json.loads(value)
    except ValueError:
        return None


def is_paused() -> bool:
    """Return whether a command failed recently, so that no other one should be tried."""
    return time.monotonic() < _resume_at


def pause() -> None:
    """Note that a command failed."""
    global _resume_at
    _resume_at = time.monotonic() + PAUSE_SECONDS


def probe() -> None:
    """Write to Redis, since a server that refuses writes still answers PING. Raises RedisError."""
    client().set(PROBE, 1, ex=60)


def refusal() -> str | None:
    """Return why Redis refuses writes, None if it accepts them."""
    try:
        probe()
    except redis.RedisError as error:
        return str(error) or type(error).__name__
    return None
