"""OpenTelemetry traces of requests, messages and SQL, sent to OTEL_EXPORTER_OTLP_ENDPOINT. Off unless that is set.

The libraries of deploy/requirements-otel.txt are imported only then. They read OpenTelemetry's other variables.
"""

from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

# Attributes that may contain the secret signature of an image's link.
WITH_QUERY = ("http.target", "http.url", "url.full", "url.query")


def begin() -> None:
    """Start tracing if it is configured. Call it before Django loads its middleware. Raises ImproperlyConfigured."""
    if not settings.OTEL_EXPORTER_OTLP_ENDPOINT:
        return
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.instrumentation.celery import CeleryInstrumentor
        from opentelemetry.instrumentation.django import DjangoInstrumentor
        from opentelemetry.instrumentation.psycopg2 import Psycopg2Instrumentor
        from opentelemetry.instrumentation.redis import RedisInstrumentor
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import (
            Decision,
            ParentBased,
            Sampler,
            SamplingResult,
        )
        from opentelemetry.trace import SpanKind
    except ImportError as error:
        raise ImproperlyConfigured(
            "OTEL_EXPORTER_OTLP_ENDPOINT is set, but the libraries for it are missing: "
            "pip install -r deploy/requirements-otel.txt"
        ) from error

    class RequestsAndTasks(Sampler):
        """Starts traces only at requests and tasks: SQL and messages of heartbeats and polls would be most of them."""

        def should_sample(self, parent_context: Any, trace_id: int, name: str, kind: Any = None,
                          *_: Any, **__: Any) -> SamplingResult:  # fmt: skip
            is_wanted = kind in (SpanKind.SERVER, SpanKind.CONSUMER)
            return SamplingResult(Decision.RECORD_AND_SAMPLE if is_wanted else Decision.DROP)

        def get_description(self) -> str:
            return type(self).__name__

    names = {"service.name": "retort", "service.instance.id": settings.WORKER_NAME}
    provider = TracerProvider(
        sampler=ParentBased(RequestsAndTasks()),
        resource=Resource.create({**names, "service.version": settings.VERSION}),
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    DjangoInstrumentor().instrument(request_hook=_without_query)
    CeleryInstrumentor().instrument()
    # The dependency check looks for psycopg2; ours is psycopg2-binary.
    Psycopg2Instrumentor().instrument(skip_dep_check=True)
    RedisInstrumentor().instrument()


def _without_query(span: Any, request: Any) -> None:
    for name in WITH_QUERY:
        if name in (getattr(span, "attributes", None) or {}):
            span.set_attribute(name, "" if name == "url.query" else request.path)
