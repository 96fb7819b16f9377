"""Redis lock that makes beat a singleton: a second beat stands by until the first is gone.

The holder renews the lock at each tick of its schedule, so a hanging beat is replaced.
"""

import atexit
import os
import time
from contextlib import suppress

import redis
import structlog
from redis.exceptions import LockError
from redis.lock import Lock

from generation.infra.redis_client import client

log = structlog.get_logger(__name__)

NAME = "retort:beat"
LOCK_SECONDS = 15.0  # a killed or hanging beat is replaced after this time
POLL_SECONDS = 2.0
EXIT_LOST = 1

_lock: Lock | None = None


def acquire() -> None:
    """Block until this process holds the lock. Call `keep` often after that."""
    global _lock
    _lock = client().lock(NAME, timeout=LOCK_SECONDS, thread_local=False)
    if not _take(_lock):
        log.info("beat_standby")
        while not _take(_lock):
            time.sleep(POLL_SECONDS)
    log.info("beat_begins")
    atexit.register(_release, _lock)


def keep() -> bool:
    """Renew the lock. Return False while Redis is unreachable; the caller must then send nothing.

    If another beat has the lock, exit the process; the supervisor restarts it as the standby.
    """
    if _lock is None:
        return False
    try:
        return bool(_lock.reacquire())
    except LockError:  # it expired while Redis was unreachable or this process was suspended
        if _take(_lock):
            return True
        log.error("beat_lock_lost")
        os._exit(EXIT_LOST)
    except redis.RedisError as error:
        log.warning("redis_unreachable", error=str(error))
        return False


def is_held() -> bool:
    """Return whether a beat runs, that is, holds the lock. Raises RedisError."""
    return bool(client().exists(NAME))


def _take(lock: Lock) -> bool:
    try:
        return lock.acquire(blocking=False)
    except redis.RedisError as error:
        log.warning("redis_unreachable", error=str(error))
        return False


def _release(lock: Lock) -> None:
    with suppress(redis.RedisError):  # the lock then expires
        lock.release()
