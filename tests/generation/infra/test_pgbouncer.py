"""Everything works behind PgBouncer in transaction mode, where a session lasts no longer than a transaction."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import call_command
from django.db import connection

from generation import tasks
from generation.catalogue import variants as catalogue
from generation.infra import session_limits
from generation.jobs import lifecycle as jobs
from generation.models import Job, PromptVariant
from tests import fake_worker
from tests.client import API
from tests.factories import make_embedding, make_release
from tests.threads import in_threads
from tests.web import Web, free_port

PROGRAM = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
SERVER_CONNECTIONS = 3

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(PROGRAM is None, reason="pgbouncer is not installed"),
]


@pytest.fixture
def pooled(transactional_db, redis_server, tmp_path: Path, monkeypatch) -> Iterator[None]:
    """Connect this test through a pooler that has few connections to PostgreSQL."""
    facts = connection.settings_dict
    target = f"host={facts['HOST']} port={facts['PORT']} user={facts['USER']} password={facts['PASSWORD']}"
    port = free_port()
    config = tmp_path / "pgbouncer.ini"
    config.write_text(
        f"""
[databases]
{facts["NAME"]} = {target}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {SERVER_CONNECTIONS}
max_prepared_statements = 0
{"user = nobody" if os.geteuid() == 0 else ""}
"""
    )
    with (tmp_path / "pgbouncer.log").open("wb") as log:
        process = subprocess.Popen([str(PROGRAM), str(config)], stdout=log, stderr=log)
    try:
        _wait(port)
        connection.close()
        monkeypatch.setitem(facts, "HOST", "127.0.0.1")
        monkeypatch.setitem(facts, "PORT", port)
        yield
        connection.close()
    finally:
        process.terminate()
        process.wait(10)


def _wait(port: int) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def answers(sql: str) -> set[str]:
    """Return the answers of all connections of the pool: transactions open at the same time have one each."""
    found: list[str] = []

    def ask() -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT ({sql})::text FROM pg_sleep(0.3)")
            found.append(cursor.fetchone()[0])

    in_threads(ask, count=SERVER_CONNECTIONS)
    return set(found)


def test_jobs_are_submitted_claimed_completed_swept_and_read(pooled):
    make_embedding(encoder_fingerprint=make_release().encoder_fingerprint)
    api = API()
    ids: list[str] = []

    def ask() -> None:
        for _ in range(3):
            answer = api.post("/v1/jobs", {"variant": "red-glass-vase", "n": 2})
            assert answer.status_code == 202, answer.content
            ids.append(answer.json()["id"])
            if claimed := jobs.claim("worker-1").jobs:
                assert fake_worker.finish(claimed) == []
            assert api.get("/v1/jobs").status_code == 200

    in_threads(ask, count=4)
    while claimed := jobs.claim("worker-1").jobs:
        fake_worker.finish(claimed)

    assert len(ids) == 12
    for job_id in ids:
        job = api.get(f"/v1/jobs/{job_id}").json()
        assert (job["status"], len(job["images"])) == ("succeeded", 2)
    lost = api.post("/v1/jobs", {"variant": "red-glass-vase"}).json()["id"]
    assert jobs.claim("worker-2").jobs
    Job.objects.filter(id=lost).update(lease_expires_at="2020-01-01T00:00Z")
    tasks.sweep()
    assert api.get(f"/v1/jobs/{lost}").json()["status"] == "queued"
    again = api.post("/v1/jobs", {"variant": "red-glass-vase", "seed": job["seed"], "n": 2})
    assert again.json()["cache"] == "hit"

    assert answers("current_setting('jit')") == {"on"}
    assert answers("SELECT count(*) FROM pg_prepared_statements") == {"0"}
    own = "database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    assert answers(f"SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND {own}") == {"0"}


def test_the_web_process_answers_and_a_client_waits(pooled, tmp_path: Path):
    make_embedding(encoder_fingerprint=make_release().encoder_fingerprint)
    api = API()
    web = Web(tmp_path)  # on the connections of this test
    try:
        with fake_worker.in_background() as begin:
            begin(fake_worker.make_pictures)
            headers = {"Authorization": f"Bearer {api.plain}", "Prefer": "wait=20"}
            answer = web.http.post("/v1/jobs", json={"variant": "red-glass-vase"}, headers=headers)
        assert (answer.status_code, answer.json()["status"]) == (200, "succeeded")
    finally:
        web.stop()


def test_the_database_is_prepared_and_its_catalogue_read(pooled):
    call_command("bootstrap", "--json", stdout=StringIO())
    session_limits.lift()  # a setting of the database would outlive the test
    assert PromptVariant.objects.exists()
    assert catalogue.encode_again(PromptVariant.objects.all()) == 0
    assert sum(1 for _ in PromptVariant.objects.iterator(chunk_size=2)) > 2
