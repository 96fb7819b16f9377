"""Result cache: size cap, TTL, and operation without Redis."""

import pytest

from generation.images import cache, store
from generation.infra import redis_client


def test_entries_expire(redis_server, settings):
    settings.IMAGE_CACHE_SECONDS = 100
    cache.put({"k": {"file": "x"}})

    assert cache.get(["k", "missing"]) == {"k": {"file": "x"}}
    assert 0 < redis_server.ttl(cache.PREFIX + "k") <= 100


def test_the_oldest_entries_are_evicted_when_there_are_too_many(redis_server, settings):
    settings.IMAGE_CACHE_ENTRIES = 3
    for number in range(5):
        cache.put({f"k{number}": {"n": number}})

    assert sorted(cache.get(f"k{number}" for number in range(5))) == ["k2", "k3", "k4"]


def test_without_redis_the_cache_is_empty_and_quick(settings, monkeypatch):
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    monkeypatch.setattr(redis_client, "_client", None)
    monkeypatch.setattr(redis_client, "_resume_at", 0.0)

    cache.put({"k": {}})

    assert cache.get(["k"]) == {}
    assert redis_client._resume_at > 0


@pytest.mark.parametrize("value", ("no JSON", "[]", "null", '{"key": "k"}', '{"unknown": 1}'))
def test_an_entry_in_an_unknown_format_is_ignored(redis_server, value):
    redis_server.set(cache.PREFIX + "key.webp", value)

    assert store.cached(["key"]) == []
