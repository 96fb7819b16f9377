"""Rate limits of persons and of API keys, counted in Redis, with their headers.

A person's limit is for all their keys and the page together; a key may have one of its own beside it. While Redis is
unreachable nothing is limited. Without a limit there is no round trip.
"""

import math
import time
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import redis
from django.conf import settings
from django.http import HttpRequest
from django.template.defaultfilters import pluralize
from limits import RateLimitItemPerMinute
from limits.storage import RedisStorage
from limits.strategies import SlidingWindowCounterRateLimiter
from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle

from generation.access import quotas
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
    """State of a limit. limit: requests per minute; left: still allowed; seconds: until more are allowed."""

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
        _check(standing, "key")
        return True


def check_person(person: Any) -> None:
    """Count a submission on the page towards the person's limit. Raises RateLimited."""
    _check(_count_all(_limits(person, None), counts=True), "account")


def _check(standing: Standing | None, what: str) -> None:
    if standing is not None and not standing.is_allowed:
        raise RateLimited(
            f"This {what} may send {standing.limit} request{pluralize(standing.limit)} a minute. The next one is "
            f"possible in {standing.seconds} s.",
            retry_after=standing.seconds,
        )


def of(request: HttpRequest) -> Standing | None:
    """Return the state of the nearest limit; the first call counts the request. None without a key or a limit."""
    if not hasattr(request, "_standing"):
        request._standing = _ask(request)  # type: ignore[attr-defined]
    return request._standing  # type: ignore[attr-defined]


def _ask(request: HttpRequest) -> Standing | None:
    key = getattr(request, "auth", None)  # put there by REST framework
    if not isinstance(key, APIKey):
        return None
    # A repeated request of the shell is none of the client.
    is_repeated = bool(request.META.get("asgi.scope", {}).get(SHELL))
    return _count_all(_limits(key.owner, key), counts=not is_repeated)


def _limits(owner: Any, key: APIKey | None) -> list[tuple[str, int]]:
    """Return the limits by the name of their counter. The setting is the person's where neither row says anything."""
    own = quotas.limits_of(owner)
    of_owner = None if own is None else own.requests_per_minute
    of_key = None if key is None else key.requests_per_minute
    if of_owner is None and of_key is None:
        of_owner = settings.REQUESTS_PER_MINUTE
    of_key_name = "" if key is None else str(key.pk)
    limits = ((of_key_name, of_key), (f"owner-{owner.pk}", of_owner))
    return [(name, limit) for name, limit in limits if limit]


def _count_all(limits: list[tuple[str, int]], *, counts: bool) -> Standing | None:
    """Count the request towards each limit until one refuses it. Return the state with the fewest requests left."""
    found: list[Standing] = []
    for name, limit in limits:
        standing = attempt(partial(_count, name=name, limit=limit, counts=counts), None)
        if standing is not None:
            found.append(standing)
            if not standing.is_allowed:
                return standing
    return min(found, key=lambda standing: standing.left, default=None)


def _count(client: redis.Redis, *, name: str, limit: int, counts: bool) -> Standing:
    limiter = _limiter(client.connection_pool)
    item = RateLimitItemPerMinute(limit)
    is_allowed = limiter.hit(item, name) if counts else True
    now = limiter.get_window_stats(item, name)
    seconds = min(WINDOW_SECONDS, max(1, math.ceil(now.reset_time - time.time())))
    return Standing(limit, now.remaining, seconds, is_allowed)


@lru_cache(maxsize=1)
def _limiter(pool: redis.ConnectionPool) -> SlidingWindowCounterRateLimiter:
    # The library wants a URL although the pool has one.
    return SlidingWindowCounterRateLimiter(
        RedisStorage("redis://", connection_pool=pool, key_prefix=PREFIX)
    )
