"""Whether the process lives, and whether the whole can serve. Quick: a part that hangs is a part that is down."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import structlog
from django.conf import settings
from django.db import connection
from django.db.models import F, Max
from django.db.models.functions import Now
from django.http import HttpRequest, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from generation import connections
from generation.models import Worker

log = structlog.get_logger(__name__)

PART_SECONDS = 2.0
# Questions may hang with what they ask. In these threads they hold up no request, and never more than four hang.
_asking = ThreadPoolExecutor(4, thread_name_prefix="health")


@require_safe
@never_cache
def live(request: HttpRequest) -> JsonResponse:
    """This process answers."""
    return JsonResponse({"status": "ok"})


@require_safe
@never_cache
def ready(request: HttpRequest) -> JsonResponse:
    """PostgreSQL and Redis answer, and a generation worker showed its heartbeat."""
    asked = {name: _asking.submit(part) for name, part in PARTS.items()}
    parts = {name: _outcome(name, future) for name, future in asked.items()}
    good = all(part["ok"] for part in parts.values())
    return JsonResponse(
        {"status": "ok" if good else "unavailable", **parts}, status=200 if good else 503
    )


def _outcome(name: str, future: "Future[dict[str, Any]]") -> dict[str, Any]:
    try:
        return future.result(timeout=PART_SECONDS)
    except Exception as error:
        future.cancel()
        # What exactly is wrong is for the log; the address is open to anybody.
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
    return {"ok": bool(connections.client().ping())}


def _workers() -> dict[str, Any]:
    try:
        rows = Worker.objects.filter(queue="generation")
        newest = rows.aggregate(silence=Now() - Max(F("heartbeat_at")))["silence"]
    finally:
        connection.close()
    if newest is None:
        return {"ok": False, "detail": "no generation worker", "heartbeat_seconds": None}
    seconds = round(newest.total_seconds(), 1)
    return {"ok": seconds <= settings.WORKER_STALE_SECONDS, "heartbeat_seconds": seconds}


PARTS: dict[str, Callable[[], dict[str, Any]]] = {
    "database": _database,
    "redis": _redis,
    "workers": _workers,
}
