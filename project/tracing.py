"""Traces of requests, messages and statements, sent to OTEL_EXPORTER_OTLP_ENDPOINT by OpenTelemetry. Off without it.

The libraries of deploy/requirements-otel.txt are imported only then. They read the other variables of OpenTelemetry.
"""

from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

# Attributes that may hold the secret signature of an image's link.
WITH_QUERY = ("http.target", "http.url", "url.full", "url.query")


def begin() -> None:
    """Trace this process, if it is wanted. Call it before Django loads its middleware. Raises ImproperlyConfigured."""
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
        """Begins no trace at a statement or at a message: heartbeats, polls and the schedule would be most of all."""

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
    # The driver's package is psycopg2-binary, which the check does not know by that name.
    Psycopg2Instrumentor().instrument(skip_dep_check=True)
    RedisInstrumentor().instrument()


def _without_query(span: Any, request: Any) -> None:
    for name in WITH_QUERY:
        if name in (getattr(span, "attributes", None) or {}):
            span.set_attribute(name, "" if name == "url.query" else request.path)
