"""View of the Prometheus metrics."""

from collections.abc import Mapping

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.utils.crypto import constant_time_compare
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from generation.infra import gauges, metrics
from generation.realtime.hub import LOAD


class _Figures(CollectorRegistry):
    """Registry of prometheus_client that collects at each scrape, without state in the process."""

    def __init__(self, load: Mapping[str, float] | None) -> None:
        super().__init__()
        self._load = load

    def collect(self):
        yield from metrics.recorded()
        yield from gauges.collect()
        if self._load is not None:
            yield from gauges.of_web(self._load)


@require_safe
@never_cache
def page(request: HttpRequest) -> HttpResponse:
    if not _is_allowed(request):
        return HttpResponse(
            "Set METRICS_TOKEN, and send it as: Authorization: Bearer …\n",
            content_type="text/plain",
            status=401,
            headers={"WWW-Authenticate": 'Bearer realm="metrics"'},
        )
    figures = _Figures(request.META.get("asgi.scope", {}).get(LOAD))
    return HttpResponse(generate_latest(figures), content_type=CONTENT_TYPE_PLAIN_0_0_4)


def _is_allowed(request: HttpRequest) -> bool:
    given = request.headers.get("Authorization", "").encode()
    wanted = f"Bearer {settings.METRICS_TOKEN}".encode()
    return bool(settings.METRICS_TOKEN) and constant_time_compare(given, wanted)
