"""View of the Prometheus metrics."""

from django.http import HttpRequest, HttpResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from generation.infra import metrics


class _Figures(CollectorRegistry):
    """Registry for prometheus_client that collects at each scrape and keeps nothing in the process."""

    def collect(self):
        return metrics.collect()


@require_safe
@never_cache
def page(request: HttpRequest) -> HttpResponse:
    return HttpResponse(generate_latest(_Figures()), content_type=CONTENT_TYPE_PLAIN_0_0_4)
