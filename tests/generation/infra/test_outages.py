"""A real PostgreSQL with a full disk, one that fails over to a standby, and one that is replaced by a restored backup.

Web, workers and a client continue.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psycopg2
import pytest
from django.conf import settings
from django.core.management import call_command
from django.db import connection

from deploy.local import ports
from deploy.local.home import Home
from deploy.local.postgresql import DATABASE
from generation.catalogue import encoding
from generation.models import Attempt, Job, Worker
from generation.releases import lifecycle as releases
from tests.celery_worker import workers
from tests.chaos.checker import (
    AT_THE_END,
    OF_FILES,
    ORPHAN_SECONDS,
    check,
    refusals_are_retryable,
)
from tests.chaos.disk import SmallDisk, may_mount
from tests.chaos.evidence import TRIGGER, Evidence, Violation, age
from tests.chaos.log import ClientLog, Seen
from tests.chaos.servers import CUT, PASSWORD, PostgresServer, Repeating
from tests.factories import make_key, make_variant
from tests.tiny import make_tiny_release
from tests.web import ROOT, Web, database_url, eventually

DISK_MB = 300
STEPS = 100  # of a picture, so that it takes seconds
PATIENCE_SECONDS = 900
LEASE_SECONDS = 8
GENERATION = ("generation-1", "generation-2")
SWEEP_SECONDS = 0.5  # sent by the light worker itself: there is no beat

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]


class Client:
    """Send each job until it is accepted, then the next one, until `drain`."""

    def __init__(self, web: Web, key: str) -> None:
        self.log = ClientLog()
        self._web = web
        self._headers = {"Authorization": f"Bearer {key}"}
        self._sending = Repeating(self._send, 0.2)

    def _send(self) -> None:
        try:
            self._send_one()
        except Exception as error:  # no answer, or not in Retort's format
            self.log.add(Seen("gave-up", "fresh", detail=repr(error)))

    def _send_one(self) -> None:
        number = self.accepted()
        answer = self._web.http.post(
            "/v1/jobs",
            json={"variant": "vase", "seed": number},
            headers={**self._headers, "Idempotency-Key": str(number)},
        )
        if answer.is_success:
            job = answer.json()["id"]
            self.log.add(Seen("accepted", "fresh", job=job, idem=str(number), n=1))
        else:
            self._refused(answer)

    def _refused(self, answer: httpx.Response) -> None:
        problem = answer.json()
        seen = Seen(
            "refused",
            "fresh",
            http=answer.status_code,
            code=problem["code"],
            retryable=problem["retryable"],
            retry_after=answer.headers.get("Retry-After", ""),
            detail=problem["detail"],
        )
        self.log.add(seen)

    def accepted(self) -> int:
        return len(self.log.of("accepted"))

    def wait_for(self, event: str, more: int) -> None:
        """Return when so many more jobs were accepted, or requests refused."""
        wanted = len(self.log.of(event)) + more
        eventually(lambda: len(self.log.of(event)) >= wanted, seconds=PATIENCE_SECONDS)

    def stop(self) -> None:
        self._sending.stop()

    def drain(self) -> None:
        """Send nothing more; return when every job has ended."""
        self.stop()
        connection.close()
        eventually(all_ended, seconds=PATIENCE_SECONDS)


def is_any_running() -> bool:
    return Job.objects.filter(status="running").exists()


def all_ended() -> bool:
    return not Job.objects.filter(status__in=("queued", "running")).exists()


def evidence(log: ClientLog) -> Evidence:
    def query(sql: str, *parameters: Any) -> list[tuple]:
        with connection.cursor() as cursor:
            cursor.execute(sql, parameters or None)
            return cursor.fetchall()

    return Evidence(query, settings.MEDIA_ROOT, log)


def violations(client: Client) -> list[Violation]:
    """Return the violated guarantees for the client's jobs, answers and files, also after the next nightly sweep."""
    found = check(evidence(client.log), AT_THE_END)
    age(settings.MEDIA_ROOT, ORPHAN_SECONDS + 1)
    call_command("retention", "--all-files")
    return found + check(evidence(client.log), OF_FILES)


def started(folder: Path) -> PostgresServer:
    home = Home(folder)
    home.create()
    found = PostgresServer(home, home.postgres)
    found.prepare()
    found.start()
    return found


@pytest.fixture
def connect(transactional_db, redis_server, monkeypatch):
    """Connect this test, and its processes, to the first of these servers that accepts writes."""

    def connect(*servers: PostgresServer) -> None:
        connection.close()
        facts = {
            "HOST": ",".join(ports.HOST for _ in servers),
            "PORT": ",".join(str(server.server.port) for server in servers),
            "USER": "postgres",
            "PASSWORD": PASSWORD,
            "NAME": DATABASE,
            "OPTIONS": {"target_session_attrs": "read-write"},
        }
        for name, value in facts.items():
            monkeypatch.setitem(connection.settings_dict, name, value)

    yield connect
    connection.close()


def prepared(folder: Path) -> str:
    """Prepare the database: a release and a variant. Return a key."""
    call_command("migrate", verbosity=0)
    make_tiny_release(folder / "tiny", name="tiny", kind="student", steps=STEPS)
    releases.activate(releases.register(folder / "tiny"))
    make_variant(slug="vase", text="a red glass vase")
    assert encoding.encode_missing() == 0
    key = make_key()[1]
    with connection.cursor() as cursor:
        cursor.execute(TRIGGER)
    return key


@contextmanager
def serving(folder: Path, key: str) -> Iterator[Client]:
    """Start web and two generation workers, and send jobs all the time."""
    web = Web(folder, DATA_DIR=str(settings.DATA_DIR))
    client = Client(web, key)
    try:
        with workers(folder) as start:
            seconds = {
                "LEASE_SECONDS": str(LEASE_SECONDS),
                "SWEEP_SECONDS": str(SWEEP_SECONDS),
                "DEAF_SECONDS": "300",  # a busy machine may take long to connect to Redis at the start
            }
            for name in GENERATION:
                start(name, "generation", BATCH_SIZE="2", **seconds)
            start("light", "light", pool="threads", **seconds)
            eventually(lambda: Worker.objects.count() == 3, seconds=PATIENCE_SECONDS)
            yield client
    finally:
        client.stop()
        web.stop()


# --- a failover -----------------------------------------------------------------------------------
@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[PostgresServer, PostgresServer]]:
    """A primary, and a standby that has each transaction before the client gets its confirmation."""
    primary = started(tmp_path / "primary")
    standby = None
    try:
        standby = primary.standby(tmp_path / "standby")
        yield primary, standby
    finally:
        primary.end()
        if standby:
            standby.end()


def test_a_failover_loses_no_accepted_job(connect, pair, tmp_path: Path):
    primary, standby = pair
    connect(primary, standby)
    with serving(tmp_path, prepared(tmp_path)) as client:
        eventually(is_any_running, seconds=PATIENCE_SECONDS)
        primary.crash()
        client.wait_for("refused", 5)
        standby.query("SELECT pg_promote()")
        client.wait_for("accepted", 10)

        client.drain()
        assert violations(client) == []


# --- a full disk ----------------------------------------------------------------------------------
@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    if not may_mount():
        pytest.skip("only root may mount a small disk")
    with SmallDisk(tmp_path / "disk", megabytes=DISK_MB) as disk:
        yield disk


def test_a_full_disk_loses_no_accepted_job_and_no_finished_image(
    connect, small_disk: SmallDisk, tmp_path: Path
):
    postgres = started(small_disk.folder)
    try:
        connect(postgres)
        postgres.set("autovacuum", "off")  # it frees space in tables
        session = postgres.connect()  # opened before there is no space for a new one
        with serving(tmp_path, prepared(tmp_path)) as client, session.cursor() as cursor:
            client.wait_for("accepted", 5)
            with small_disk.full():
                client.wait_for("refused", 5)
                time.sleep(3 * LEASE_SECONDS)
                cursor.execute("SELECT id::text FROM generation_job WHERE status = 'running'")
                finished = [job_id for (job_id,) in cursor.fetchall()]
                with suppress(psycopg2.Error):  # the server ends when it cannot write its log
                    cursor.execute("SELECT pg_switch_wal()")
                    cursor.execute("SELECT pg_logical_emit_message(true, '', repeat('x', 10000))")
                eventually(lambda: not postgres.is_running())
                client.wait_for("refused", 5)
            postgres.start()  # as its supervisor does
            client.wait_for("accepted", 10)
            client.drain()

            assert violations(client) == []
            attempts = Attempt.objects.filter(job_id__in=finished)
            assert set(attempts.values_list("number", "outcome")) == {(1, "succeeded")}
    finally:
        postgres.end()


# --- a restoration --------------------------------------------------------------------------------
def manage(*words: str, database: str = DATABASE) -> None:
    done = subprocess.run(
        [sys.executable, "manage.py", *words],
        cwd=ROOT,
        env={
            **os.environ,
            "DATABASE_URL": database_url().rsplit("/", 1)[0] + f"/{database}",
            "REDIS_URL": settings.REDIS_URL,
            "DATA_DIR": str(settings.DATA_DIR),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[PostgresServer]:
    found = started(tmp_path / "postgresql")
    yield found
    found.end()


def test_a_restored_backup_is_served_by_the_running_processes(
    connect, postgres: PostgresServer, tmp_path: Path
):
    """Replace the database by a backup from before the workers had rows, and from before the latest jobs."""
    connect(postgres)
    key = prepared(tmp_path)
    archive = str(tmp_path / "retort.tar")
    manage("backup", archive)
    with serving(tmp_path, key) as client:
        client.wait_for("accepted", 5)
        postgres.query("CREATE DATABASE restored")
        manage("restore", archive, database="restored")
        eventually(is_any_running, seconds=PATIENCE_SECONDS)
        connection.close()
        session = psycopg2.connect(
            postgres.url.removesuffix(DATABASE) + "postgres", application_name="chaos"
        )
        session.autocommit = True
        with session.cursor() as cursor:
            cursor.execute(f"ALTER DATABASE {DATABASE} ALLOW_CONNECTIONS false")
            cursor.execute(CUT)
            client.wait_for("refused", 3)
            cursor.execute(f"ALTER DATABASE {DATABASE} RENAME TO replaced")
            cursor.execute(f"ALTER DATABASE restored RENAME TO {DATABASE}")
        session.close()
        before = len(client.log.seen)
        client.wait_for("accepted", 10)
        eventually(lambda: Worker.objects.count() == 3, seconds=PATIENCE_SECONDS)
        client.drain()

        assert list(refusals_are_retryable(evidence(client.log))) == []
        client.log.seen = client.log.seen[before:]  # earlier jobs are not in the backup
        assert Job.objects.count() == client.accepted()
        assert violations(client) == []
        for name in GENERATION:
            events = (tmp_path / f"{name}.log").read_text()
            assert "worker_row_restored" in events and events.count("worker_ready") == 1
