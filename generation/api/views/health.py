"""Readiness. Checks are short: a component that hangs counts as down. `project.asgi` answers liveness."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from math import inf
from threading import Condition
from typing import Any

import structlog
from cachetools import TTLCache, cached
from django.conf import settings
from django.db import connection
from django.db.models import F, Max
from django.db.models.functions import Now
from django.http import HttpRequest, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from generation.infra import beat_lock, heartbeat, light, redis_client
from generation.models import Worker
from generation.realtime.hub import LOAD

log = structlog.get_logger(__name__)

PART_SECONDS = 2.0
CACHED_SECONDS = 0.5
STUCK_SECONDS = 5.0  # not ready after all threads were busy this long without a completed request
CHECKS_AT_ONCE = 4  # per component; while so many hang, no more are started

_running_checks: Counter[str] = Counter()
_guard = threading.Lock()


@require_safe
@never_cache
def ready(request: HttpRequest) -> JsonResponse:
    """Readiness: PostgreSQL and Redis respond, a generation worker without a fault is alive, this process has threads.

    Without beat jobs are rescued later, without the light worker not at all: "degraded", with the status 200.
    """
    parts = dict(_checked())
    if load := request.META.get("asgi.scope", {}).get(LOAD):
        parts["threads"] = {"ok": load["stuck_seconds"] < STUCK_SECONDS, **load}
    good = all(part["ok"] for name, part in parts.items() if name != SCHEDULE)
    status = "unavailable" if not good else "ok" if parts[SCHEDULE]["ok"] else "degraded"
    return JsonResponse({"status": status, **parts}, status=200 if good else 503)


@cached(TTLCache(maxsize=1, ttl=CACHED_SECONDS), condition=Condition())
def _checked() -> dict[str, dict[str, Any]]:
    """Check the components. Cached: each check opens connections to PostgreSQL, and anybody may request it."""
    deadline = time.monotonic() + PART_SECONDS
    asked = {name: _start_check(name) for name in PARTS}
    return {name: _outcome(name, future, deadline) for name, future in asked.items()}


def _start_check(name: str) -> "Future[dict[str, Any]]":
    """Check a component in a daemon thread, so that a hanging check blocks neither requests nor the shutdown."""
    future: Future[dict[str, Any]] = Future()

    def check() -> None:
        try:
            future.set_result(PARTS[name]())
        except Exception as error:
            future.set_exception(error)
        finally:
            with _guard:
                _running_checks[name] -= 1

    with _guard:
        hanging = _running_checks[name] >= CHECKS_AT_ONCE
        _running_checks[name] += not hanging
    if hanging:
        future.set_exception(TimeoutError(f"{CHECKS_AT_ONCE} checks hang"))
    else:
        threading.Thread(target=check, name=f"health-{name}", daemon=True).start()
    return future


def _outcome(name: str, future: "Future[dict[str, Any]]", deadline: float) -> dict[str, Any]:
    try:
        return future.result(timeout=max(0.0, deadline - time.monotonic()))
    except Exception as error:
        # Details go to the log only: this URL is public.
        log.warning("health_part_failed", part=name, error=str(error).strip() or repr(error))
        return {"ok": False, "detail": "no answer"}


def _database() -> dict[str, Any]:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        return {"ok": True}
    finally:
        connection.close()


def _redis() -> dict[str, Any]:
    redis_client.probe()
    return {"ok": True}


def _workers() -> dict[str, Any]:
    try:
        rows = Worker.objects.filter(queue="generation").values_list("fault")
        found = dict(rows.annotate(silence=Now() - Max(F("heartbeat_at"))).order_by())
    finally:
        connection.close()
    if not found:
        return {"ok": False, "detail": "no generation worker", "heartbeat_seconds": None}
    seconds = {fault: round(silence.total_seconds(), 1) for fault, silence in found.items()}
    faults = sorted(
        fault for fault, age in seconds.items() if fault and age <= settings.WORKER_STALE_SECONDS
    )
    is_well = seconds.get("", inf) <= settings.WORKER_STALE_SECONDS
    answer: dict[str, Any] = {"ok": is_well, "heartbeat_seconds": min(seconds.values())}
    if faults:
        answer |= {"faults": faults}  # codes only: this URL is public
    return answer


def _schedule() -> dict[str, Any]:
    try:
        runs = {"beat": beat_lock.is_held(), "light": heartbeat.is_served(light.QUEUE)}
    finally:
        connection.close()
    return {"ok": all(runs.values()), **runs}


SCHEDULE = "schedule"
PARTS: dict[str, Callable[[], dict[str, Any]]] = {
    "database": _database,
    "redis": _redis,
    "workers": _workers,
    SCHEDULE: _schedule,
}
