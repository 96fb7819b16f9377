"""Lock in Redis that keeps beat single: a second beat stands by until the first is gone."""

import atexit
import os
import threading
import time
from contextlib import suppress

import redis
import structlog
from redis.exceptions import LockError
from redis.lock import Lock

from generation.infra.redis_client import client

log = structlog.get_logger(__name__)

NAME = "retort:beat"
LOCK_SECONDS = 10.0  # a beat that was killed is replaced after that
RENEW_SECONDS = 2.0
EXIT_LOST = 1


def acquire() -> None:
    """Return when this process holds the lock, and hold it until the process ends."""
    lock = client().lock(NAME, timeout=LOCK_SECONDS, thread_local=False)
    if not _take(lock):
        log.info("beat_stands_by")
        while not _take(lock):
            time.sleep(RENEW_SECONDS)
    log.info("beat_begins")
    atexit.register(_release, lock)
    threading.Thread(target=_keep, args=(lock,), name="beat-lock", daemon=True).start()


def _take(lock: Lock) -> bool:
    try:
        return lock.acquire(blocking=False)
    except redis.RedisError as error:
        log.warning("redis_unreachable", error=str(error))
        return False


def _keep(lock: Lock) -> None:
    """Renew the lock. If another beat has taken it, end this process, which the supervisor starts again to stand by."""
    while True:
        time.sleep(RENEW_SECONDS)
        try:
            lock.reacquire()
        except LockError:  # it expired while Redis was away, or this process was suspended
            if not _take(lock):
                log.error("beat_lock_lost")
                os._exit(EXIT_LOST)
        except redis.RedisError as error:
            log.warning("redis_unreachable", error=str(error))


def _release(lock: Lock) -> None:
    with suppress(redis.RedisError):  # then it expires
        lock.release()
