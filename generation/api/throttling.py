"""Rate limit of API keys, counted in Redis, with its headers.

While Redis is unreachable nothing is limited. A key without a limit costs no round trip.
"""

import math
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import redis
from django.conf import settings
from django.http import HttpRequest
from limits import RateLimitItemPerMinute
from limits.storage import RedisStorage
from limits.strategies import SlidingWindowCounterRateLimiter
from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle

from generation.errors import RateLimited
from generation.infra.redis_client import attempt
from generation.models import APIKey
from generation.realtime.hub import SHELL

if TYPE_CHECKING:  # REST framework imports this module while it imports its views
    from rest_framework.views import APIView

PREFIX = "retort:limits"
WINDOW_SECONDS = 60


@dataclass(frozen=True)
class Standing:
    """State of a key's limit. limit: requests per minute; left: still allowed; seconds: until more are allowed."""

    limit: int
    left: int
    seconds: int
    is_allowed: bool

    def headers(self) -> dict[str, str]:
        """draft-ietf-httpapi-ratelimit-headers"""
        return {
            "RateLimit-Policy": f'"burst";q={self.limit};w={WINDOW_SECONDS}',
            "RateLimit": f'"burst";r={self.left};t={self.seconds}',
        }


class KeyThrottle(BaseThrottle):
    """Throttle of all views that need a key."""

    def allow_request(self, request: Request, view: "APIView") -> bool:
        """Return True, or raise RateLimited, which is answered like our other errors."""
        standing = of(request._request)
        if standing is not None and not standing.is_allowed:
            raise RateLimited(
                f"This key may send {standing.limit} requests a minute. The next one is possible in "
                f"{standing.seconds} s.",
                retry_after=standing.seconds,
            )
        return True


def of(request: HttpRequest) -> Standing | None:
    """Return the state of the key's limit; the first call counts the request. None without a key or a limit."""
    if not hasattr(request, "_standing"):
        request._standing = _ask(request)  # type: ignore[attr-defined]
    return request._standing  # type: ignore[attr-defined]


def _ask(request: HttpRequest) -> Standing | None:
    key = getattr(request, "auth", None)  # put there by REST framework
    if not isinstance(key, APIKey):
        return None
    limit = key.requests_per_minute
    if limit is None:
        limit = settings.REQUESTS_PER_MINUTE
    if not limit:
        return None
    # A repeated request of the shell is none of the client.
    is_repeated = bool(request.META.get("asgi.scope", {}).get(SHELL))
    return attempt(lambda client: _count(client, key.pk, limit, counts=not is_repeated), None)


def _count(client: redis.Redis, pk: int, limit: int, *, counts: bool) -> Standing:
    limiter = _limiter(client.connection_pool)
    item = RateLimitItemPerMinute(limit)
    is_allowed = limiter.hit(item, str(pk)) if counts else True
    now = limiter.get_window_stats(item, str(pk))
    seconds = min(WINDOW_SECONDS, max(1, math.ceil(now.reset_time - time.time())))
    return Standing(limit, now.remaining, seconds, is_allowed)


@lru_cache(maxsize=1)
def _limiter(pool: redis.ConnectionPool) -> SlidingWindowCounterRateLimiter:
    # The library wants a URL although the pool has one.
    return SlidingWindowCounterRateLimiter(
        RedisStorage("redis://", connection_pool=pool, key_prefix=PREFIX)
    )
