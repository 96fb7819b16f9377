"""Redis client with short timeouts and a pause after a failure, so that an unreachable Redis costs milliseconds."""

import functools
import logging
import time
from collections.abc import Callable
from typing import TypeVar

import redis
from django.conf import settings

log = logging.getLogger(__name__)
T = TypeVar("T")
D = TypeVar("D")

PAUSE_SECONDS = 2.0
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
            decode_responses=True,
        )
    return _client


@functools.cache
def patient_client(seconds: int) -> redis.Redis:
    """Return a client for commands that block for up to `seconds`."""
    return redis.Redis.from_url(
        settings.REDIS_URL, socket_timeout=seconds + 2, socket_connect_timeout=0.5
    )


def attempt(command: Callable[[redis.Redis], T], default: D) -> T | D:
    """Return what `command` returns, or `default` while Redis is unreachable. For data that may be lost."""
    global _resume_at
    if time.monotonic() < _resume_at:
        return default
    try:
        return command(client())
    except redis.RedisError as error:
        _resume_at = time.monotonic() + PAUSE_SECONDS
        log.warning("redis_unreachable: %s", error)
        return default
