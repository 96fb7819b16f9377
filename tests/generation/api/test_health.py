"""Health checks: correct for each component, and fast when one is down."""

import threading
import time

import pytest
from django.test import Client

from generation.api.views import health
from generation.infra import beat_lock, redis_client
from generation.models import Worker
from tests.factories import make_worker
from tests.web import eventually

# The components are checked in threads, which see only committed rows.
pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis_server")]


def ready() -> tuple[int, dict]:
    health._checked.cache_clear()
    answer = Client().get("/health/ready")
    return answer.status_code, answer.json()


@pytest.fixture
def dead_redis(settings, monkeypatch):
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    monkeypatch.setattr(redis_client, "_client", None)
    monkeypatch.setattr(redis_client, "_resume_at", 0.0)


def test_ready_with_database_redis_and_a_worker_with_a_heartbeat(redis_server):
    make_worker(silent_seconds=2)
    make_worker(name="light", queue="light")
    redis_server.set(beat_lock.NAME, "a beat")

    status, body = ready()

    assert (status, body["status"]) == (200, "ok")
    assert all(body[part]["ok"] for part in ("database", "redis", "workers"))
    assert 1.5 <= body["workers"]["heartbeat_seconds"] < 10


@pytest.mark.parametrize("missing", ["beat", "light"])
def test_without_beat_or_the_light_worker_it_is_degraded(redis_server, settings, missing):
    make_worker()
    silence = settings.WORKER_STALE_SECONDS + 5 if missing == "light" else 0
    make_worker(name="light", queue="light", silent_seconds=silence)
    if missing != "beat":
        redis_server.set(beat_lock.NAME, "a beat")

    status, body = ready()

    assert (status, body["status"]) == (200, "degraded")
    assert body["schedule"] == {"ok": False, "beat": True, "light": True} | {missing: False}


def test_not_ready_without_a_worker_or_with_only_silent_or_other_workers(settings):
    assert ready()[0] == 503
    make_worker(name="encoder", queue="encode")
    assert ready()[0] == 503
    make_worker(name="silent", silent_seconds=settings.WORKER_STALE_SECONDS + 5)

    status, body = ready()

    assert (status, body["workers"]["ok"], body["database"]["ok"]) == (503, False, True)
    make_worker(name="fresh")
    assert ready()[0] == 200


def test_the_outcome_of_the_checks_is_cached_briefly(monkeypatch):
    """Anybody may request it, and each check opens connections."""
    make_worker()
    checks: list[int] = []
    check = health.PARTS["database"]
    monkeypatch.setitem(health.PARTS, "database", lambda: checks.append(1) or check())

    assert [Client().get("/health/ready").status_code for _ in range(20)] == [200] * 20

    assert len(checks) < 20
    assert ready()[0] == 200


def test_an_unreachable_redis_is_reported_quickly(dead_redis):
    make_worker()
    started = time.monotonic()

    status, body = ready()

    assert (status, body["redis"]["ok"], body["workers"]["ok"]) == (503, False, True)
    assert time.monotonic() - started < 10


def test_a_hanging_component_counts_as_down_at_every_check(monkeypatch):
    make_worker()
    end = threading.Event()
    monkeypatch.setattr(health, "PART_SECONDS", 0.2)
    # A server that accepts the request and never answers.
    monkeypatch.setitem(health.PARTS, "database", lambda: {"ok": end.wait(60)})
    threads = threading.active_count()
    try:
        for _ in range(8):
            started = time.monotonic()
            status, body = ready()
            assert (status, body["database"]["ok"], body["redis"]["ok"]) == (503, False, True)
            assert time.monotonic() - started < 5
        # Threads of the other components may still be about to end.
        eventually(lambda: threading.active_count() - threads <= health.CHECKS_AT_ONCE)
    finally:
        end.set()
    time.sleep(0.1)
    assert ready()[0] == 200


def test_a_worker_with_a_fault_is_listed_and_does_not_count():
    faulty = make_worker()
    Worker.objects.filter(pk=faulty.pk).update(fault="storage_failed", fault_detail="/secret/path")

    status, body = ready()

    assert (status, body["workers"]["ok"], body["workers"]["faults"]) == (
        503,
        False,
        ["storage_failed"],
    )
    assert "/secret/path" not in str(body)
    make_worker(name="well")
    status, body = ready()
    assert (status, body["workers"]["faults"]) == (200, ["storage_failed"])
