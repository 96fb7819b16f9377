"""Limits of failed attempts to log in, by account and by address.

They are counted in Redis for all web processes, and also in this process for times when Redis is unreachable.
"""

import hashlib
import ipaddress
import math
import time
import unicodedata
from collections.abc import Iterator
from functools import lru_cache

import redis
import structlog
from limits import RateLimitItem, RateLimitItemPerMinute
from limits.storage import MemoryStorage, RedisStorage
from limits.strategies import FixedWindowRateLimiter

from generation.infra.redis_client import attempt

log = structlog.get_logger(__name__)

PREFIX = "retort:logins"
MINUTES = 15
# An attacker who exhausts an account's limit from one address does not lock its owner out elsewhere.
OF_ACCOUNT_AND_ADDRESS = RateLimitItemPerMinute(10, MINUTES)
OF_ADDRESS = RateLimitItemPerMinute(50, MINUTES)
OF_ACCOUNT = RateLimitItemPerMinute(200, MINUTES)

_here = FixedWindowRateLimiter(MemoryStorage())


def seconds_until_allowed(account: str, address: str) -> int:
    """Return the seconds until a login may be attempted; 0 = now."""
    counters = list(_counters(account, address))
    waits = [_wait(_here, counters)]
    waits.append(attempt(lambda client: _wait(_limiter(client.connection_pool), counters), 0))
    if seconds := max(waits):
        log.warning("login_refused", address=address, seconds=seconds)
    return seconds


def record_failure(account: str, address: str) -> None:
    """Count a failed attempt."""
    counters = list(_counters(account, address))
    log.info("login_failed", address=address)
    _hit(_here, counters)
    attempt(lambda client: _hit(_limiter(client.connection_pool), counters), None)


def record_success(account: str, address: str) -> None:
    """Forget the failed attempts of this account from this address."""
    item, *names = next(_counters(account, address))
    _here.clear(item, *names)
    attempt(lambda client: _limiter(client.connection_pool).clear(item, *names), None)


Counter = tuple[RateLimitItem, str, str]


def _counters(account: str, address: str) -> Iterator[Counter]:
    # Hashed, since people type passwords into the wrong field. Normalised and stripped like in the login form.
    name = unicodedata.normalize("NFKC", account).strip().casefold().encode()
    account = hashlib.sha256(name).hexdigest()[:32]
    network = _network(address)
    yield OF_ACCOUNT_AND_ADDRESS, account, network
    yield OF_ADDRESS, "", network
    yield OF_ACCOUNT, account, ""


def _network(address: str) -> str:
    """Return the address, or the /64 network of an IPv6 address, which belongs to one client."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:  # a Unix socket
        return address
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is None:
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(getattr(parsed, "ipv4_mapped", None) or parsed)


def _wait(limiter: FixedWindowRateLimiter, counters: list[Counter]) -> int:
    until = 0.0
    for item, *names in counters:
        if not limiter.test(item, *names):
            until = max(until, limiter.get_window_stats(item, *names).reset_time)
    return max(1, math.ceil(until - time.time())) if until else 0


def _hit(limiter: FixedWindowRateLimiter, counters: list[Counter]) -> None:
    for item, *names in counters:
        limiter.hit(item, *names)


@lru_cache(maxsize=1)
def _limiter(pool: redis.ConnectionPool) -> FixedWindowRateLimiter:
    # The library requires a URL even with a pool.
    return FixedWindowRateLimiter(RedisStorage("redis://", connection_pool=pool, key_prefix=PREFIX))
