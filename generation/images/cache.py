"""Result cache in Redis: image key → stored image, with a TTL and a size cap. PostgreSQL is the fallback.

Keys are defined in `generation.images.store`.
"""

import json
import time
from collections.abc import Iterable, Mapping
from typing import Any

from django.conf import settings

from generation.infra.redis_client import attempt, decoded

PREFIX = "retort:image:"
INDEX = "retort:images"  # sorted set: key → last write; the oldest entries are evicted


def get(keys: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return the cached entries by key; missing ones are left out."""
    wanted = list(keys)
    found = attempt(lambda redis: redis.mget([PREFIX + key for key in wanted]), []) or []
    values = {key: decoded(value) for key, value in zip(wanted, found, strict=False) if value}
    return {key: value for key, value in values.items() if isinstance(value, dict)}


def put(entries: Mapping[str, Mapping[str, Any]]) -> None:
    def write(redis) -> None:
        now = time.time()
        with redis.pipeline(transaction=False) as pipe:
            for key, value in entries.items():
                pipe.set(PREFIX + key, json.dumps(value), ex=settings.IMAGE_CACHE_SECONDS)
                pipe.zadd(INDEX, {key: now})
            pipe.zcard(INDEX)
            surplus = pipe.execute()[-1] - settings.IMAGE_CACHE_ENTRIES
        if surplus > 0:
            oldest = [key for key, _ in redis.zpopmin(INDEX, surplus)]
            redis.delete(*(PREFIX + key for key in oldest))

    if entries:
        attempt(write, None)


def forget(keys: Iterable[str]) -> None:
    """Delete entries whose file is gone."""
    gone = list(keys)
    if gone:
        attempt(lambda redis: redis.delete(*(PREFIX + key for key in gone)), 0)
