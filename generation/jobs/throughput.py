"""Time per image by release and size: the last measured samples, kept in Redis.

Samples may be lost with Redis; without samples there is no estimate.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from generation.infra.redis_client import attempt, decoded

PREFIX = "retort:rate:"
SAMPLES = 200
KEPT_SECONDS = 7 * 24 * 3600


@dataclass(frozen=True)
class Rate:
    """Seconds that a worker takes for one image: median and 90th percentile."""

    p50: float
    p90: float


def key_of(release_id: int, width: int, height: int) -> str:
    return f"{PREFIX}{release_id}:{width}x{height}"


def record(seconds: Mapping[str, float]) -> None:
    """Store the seconds per image of a finished batch, by `key_of`."""

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
    """Return the rate, None without samples or while Redis is unreachable."""
    found = attempt(lambda redis: redis.lrange(key, 0, SAMPLES - 1), []) or []
    numbers = [decoded(value) for value in found]
    values = sorted(float(value) for value in numbers if isinstance(value, int | float))
    if not values:
        return None
    return Rate(values[len(values) // 2], values[min(len(values) - 1, len(values) * 9 // 10)])
