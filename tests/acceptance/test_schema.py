"""Every operation of the OpenAPI document, tried by schemathesis on a live web process: no 5xx, no answer that the
document does not describe."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from django.db import connection

from generation.jobs import lifecycle as jobs
from generation.models import Job
from tests.distillation.factories import make_run
from tests.factories import (
    EVERY_SCOPE,
    make_embedding,
    make_image,
    make_job,
    make_key,
    make_release,
    make_variant,
)
from tests.web import Web

pytestmark = [pytest.mark.acceptance, pytest.mark.slow, pytest.mark.django_db(transaction=True)]

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)
EXAMPLES = 20  # of each operation


@contextmanager
def canceling_jobs() -> Iterator[None]:
    """Cancel submitted jobs soon: there is no worker, and requests would wait for long."""
    over = threading.Event()

    def cancel() -> None:
        while not over.wait(0.1):
            for job_id in Job.objects.filter(status="queued").values_list("id", flat=True):
                jobs.cancel(job_id)
        connection.close()

    thread = threading.Thread(target=cancel)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_no_valid_or_invalid_request_gets_an_undocumented_answer(tmp_path: Path, redis_server):
    release = make_release(image_sizes=((64, 64), (128, 64)))
    make_embedding(variant=make_variant(slug="red-vase", text="a red vase"))
    key, plain = make_key(scopes=EVERY_SCOPE)
    make_image(job=make_job(owner=key.owner, release=release, status="succeeded"))
    make_run()
    web = Web(tmp_path)
    try:
        with canceling_jobs():
            done = subprocess.run(
            [
                sys.executable, "-m", "schemathesis.cli", "run", f"{web.url}/v1/openapi.json",
                "--header", f"Authorization: Bearer {plain}", "--checks", ",".join(CHECKS),
                "--max-examples", str(EXAMPLES), "--request-timeout", "20", "--seed", "7", "--no-color",
                "--suppress-health-check", "all",
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=900,
        )  # fmt: skip
        log = web.log.read_text()
    finally:
        web.stop()
    assert done.returncode == 0, done.stdout[-12000:] + done.stderr[-2000:]
    assert '"code": 5' not in log
