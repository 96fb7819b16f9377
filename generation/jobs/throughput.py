"""How long an image takes of late, by release and size: the last measured ones, in Redis. Knows no rows and no queue.

A sample may be lost with Redis; without samples nothing is estimated.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from generation.infra.redis_client import attempt

PREFIX = "retort:rate:"
SAMPLES = 200
KEPT_SECONDS = 7 * 24 * 3600


@dataclass(frozen=True)
class Rate:
    """Seconds of a worker for one image: the median, and what nine of ten do not exceed."""

    p50: float
    p90: float


def key_of(release_id: int, width: int, height: int) -> str:
    return f"{PREFIX}{release_id}:{width}x{height}"


def record(seconds: Mapping[str, float]) -> None:
    """Seconds per image of a finished batch, by `key_of`."""

    def write(redis) -> None:
        with redis.pipeline(transaction=False) as pipe:
            for key, value in seconds.items():
                pipe.lpush(key, f"{value:.5f}")
                pipe.ltrim(key, 0, SAMPLES - 1)
                pipe.expire(key, KEPT_SECONDS)
            pipe.execute()

    if seconds:
        attempt(write, None)


def read(key: str) -> Rate | None:
    """None: nobody has measured it, or Redis is away."""
    found = attempt(lambda redis: redis.lrange(key, 0, SAMPLES - 1), []) or []
    values = sorted(float(value) for value in found)
    if not values:
        return None
    return Rate(values[len(values) // 2], values[min(len(values) - 1, len(values) * 9 // 10)])
