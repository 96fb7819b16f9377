"""Rate limits of persons and of API keys, counted in Redis, with their headers.

A person's limit is for all their keys and the page together; a key may have its own in addition. While Redis is
unreachable nothing is limited. Without a limit Redis is not queried.
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
OWNER = "owner-"  # begins the names of persons' counters; those of keys are their ids
WINDOW_SECONDS = 60


@dataclass(frozen=True)
class LimitState:
    """State of a limit. limit: requests per minute; left: still allowed; seconds: until more are allowed; whose: "key",
    or "account" for a person's."""

    limit: int
    left: int
    seconds: int
    is_allowed: bool
    whose: str

    def headers(self) -> dict[str, str]:
        """draft-ietf-httpapi-ratelimit-headers"""
        return {
            "RateLimit-Policy": f'"burst";q={self.limit};w={WINDOW_SECONDS}',
            "RateLimit": f'"burst";r={self.left};t={self.seconds}',
        }


class KeyThrottle(BaseThrottle):
    """Throttle of all views that require a key."""

    def allow_request(self, request: Request, view: "APIView") -> bool:
        """Return True, or raise RateLimited, which is rendered like our other errors."""
        state = of(request._request)
        _check(state)
        return True


def check_person(person: Any) -> None:
    """Count a submission on the page towards the person's limit. Raises RateLimited."""
    _check(_count_all(_limits(person, None), counts=True))


def _check(state: LimitState | None) -> None:
    if state is not None and not state.is_allowed:
        raise RateLimited(
            f"This {state.whose} may send {state.limit} request{pluralize(state.limit)} a minute. Send the next one "
            f"in {state.seconds} s.",
            retry_after=state.seconds,
        )


def of(request: HttpRequest) -> LimitState | None:
    """Return the state of the limit with the least left, or None without one. The first call counts the request."""
    if not hasattr(request, "_limit_state"):
        request._limit_state = _count_request(request)  # type: ignore[attr-defined]
    return request._limit_state  # type: ignore[attr-defined]


def _count_request(request: HttpRequest) -> LimitState | None:
    key = getattr(request, "auth", None)  # set by REST framework
    if not isinstance(key, APIKey):
        return None
    # The shell's repetition of a request is not counted.
    is_repeated = bool(request.META.get("asgi.scope", {}).get(SHELL))
    return _count_all(_limits(key.owner, key), counts=not is_repeated)


def _limits(owner: Any, key: APIKey | None) -> list[tuple[str, int]]:
    """Return (name of the counter, limit) pairs. The setting is the person's limit if neither row has one."""
    own = quotas.limits_of(owner)
    of_owner = None if own is None else own.requests_per_minute
    of_key = None if key is None else key.requests_per_minute
    if of_owner is None and of_key is None:
        of_owner = settings.REQUESTS_PER_MINUTE
    of_key_name = "" if key is None else str(key.pk)
    limits = ((of_key_name, of_key), (f"{OWNER}{owner.pk}", of_owner))
    return [(name, limit) for name, limit in limits if limit]


def _count_all(limits: list[tuple[str, int]], *, counts: bool) -> LimitState | None:
    """Count the request towards each limit until one refuses it. Return the state with the fewest requests left."""
    found: list[LimitState] = []
    for name, limit in limits:
        state = attempt(partial(_count, name=name, limit=limit, counts=counts), None)
        if state is not None:
            found.append(state)
            if not state.is_allowed:
                return state
    return min(found, key=lambda state: state.left, default=None)


def _count(client: redis.Redis, *, name: str, limit: int, counts: bool) -> LimitState:
    limiter = _limiter(client.connection_pool)
    item = RateLimitItemPerMinute(limit)
    is_allowed = limiter.hit(item, name) if counts else True
    now = limiter.get_window_stats(item, name)
    seconds = min(WINDOW_SECONDS, max(1, math.ceil(now.reset_time - time.time())))
    whose = "account" if name.startswith(OWNER) else "key"
    return LimitState(limit, now.remaining, seconds, is_allowed, whose)


@lru_cache(maxsize=1)
def _limiter(pool: redis.ConnectionPool) -> SlidingWindowCounterRateLimiter:
    # The library requires a URL even with a pool.
    return SlidingWindowCounterRateLimiter(
        RedisStorage("redis://", connection_pool=pool, key_prefix=PREFIX)
    )
