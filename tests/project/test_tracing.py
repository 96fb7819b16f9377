"""Traces: a request of the web process and the task that it caused on a worker are one trace. Off by default."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from gzip import decompress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from generation.models import Delivery, WebhookEndpoint
from tests.celery_worker import workers
from tests.factories import make_endpoint, make_job, make_key, make_user
from tests.receiver import Receiver
from tests.web import ROOT, Web, eventually


class Collector:
    """Receiver of OTLP over HTTP. spans: all received spans, with the instance that sent each."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Any]] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = decompress(body)
                collector.take(body)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def take(self, body: bytes) -> None:
        request = ExportTraceServiceRequest()
        request.ParseFromString(body)
        for of_resource in request.resource_spans:
            facts = {a.key: a.value.string_value for a in of_resource.resource.attributes}
            for of_scope in of_resource.scope_spans:
                self.spans += [(facts["service.instance.id"], span) for span in of_scope.spans]


@pytest.fixture
def collector() -> Iterator[Collector]:
    found = Collector()
    yield found
    found.server.shutdown()
    found.server.server_close()


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_a_request_and_the_task_that_it_caused_are_one_trace(
    tmp_path: Path, collector: Collector, redis_server
):
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "WEBHOOK_PRIVATE_HOSTS": "true",
    }
    owner = make_user()
    _, plain = make_key(owner=owner)
    web = Web(tmp_path, WORKER_NAME="the-web", **variables)
    try:
        with Receiver() as receiver, workers(tmp_path) as start:
            endpoint: WebhookEndpoint = make_endpoint(owner=owner, url=receiver.url)
            make_job(owner=owner, webhook=endpoint, status="succeeded")
            worker = start("sender", "webhooks", **variables)
            eventually(lambda: "ready." in worker.log.read_text())
            answer = web.http.post(
                f"/v1/webhooks/{endpoint.pk}/test",
                headers={"Authorization": f"Bearer {plain}"},
            )
            assert web.http.get("/?q=hidden").status_code in (200, 302)
            assert answer.status_code in (200, 201, 202), answer.text
            eventually(lambda: bool(Delivery.objects.filter(status="delivered")))
            eventually(lambda: {"the-web", "sender"} <= {name for name, _ in collector.spans})
            eventually(
                lambda: any(
                    "generation.deliver" in span.name
                    for name, span in collector.spans
                    if name == "sender"
                )
            )
    finally:
        web.stop()
    (request,) = {
        span.trace_id for name, span in collector.spans if name == "the-web" and "POST" in span.name
    }
    of_worker = [s for name, s in collector.spans if name == "sender" and s.trace_id == request]
    assert any("generation.deliver" in span.name for span in of_worker)
    assert any(span.name.startswith(("SELECT", "UPDATE")) for span in of_worker)
    values = [a.value.string_value for _, span in collector.spans for a in span.attributes]
    assert not [value for value in values if "hidden" in value]


@pytest.mark.slow
def test_without_the_variable_nothing_is_traced():
    code = "import project.asgi, sys; print('opentelemetry.instrumentation.django' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
