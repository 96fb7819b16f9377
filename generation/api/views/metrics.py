"""The figures for Prometheus."""

from django.http import HttpRequest, HttpResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from generation.infra import metrics


class _Figures(CollectorRegistry):
    """What prometheus_client renders: collected anew at each scrape, nothing is kept in the process."""

    def collect(self):
        return metrics.collect()


@require_safe
@never_cache
def page(request: HttpRequest) -> HttpResponse:
    return HttpResponse(generate_latest(_Figures()), content_type=CONTENT_TYPE_PLAIN_0_0_4)
