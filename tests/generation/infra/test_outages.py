"""A real PostgreSQL with a full disk, and one that fails over to a standby: web, workers and a client continue."""

import os
import subprocess
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
from tests.chaos.checker import AT_THE_END, check
from tests.chaos.evidence import TRIGGER, Evidence, Violation
from tests.chaos.log import ClientLog, Seen
from tests.chaos.servers import PASSWORD, PostgresServer, Repeating
from tests.factories import make_key, make_variant
from tests.tiny import make_tiny_release
from tests.web import Web, eventually

DISK_MB = 300
STEPS = 100  # of a picture, so that it takes seconds
PATIENCE_SECONDS = 300
LEASE_SECONDS = 8
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


def violations(client: Client) -> list[Violation]:
    """Return the violated guarantees for the client's jobs, answers and files."""

    def query(sql: str, *parameters: Any) -> list[tuple]:
        with connection.cursor() as cursor:
            cursor.execute(sql, parameters or None)
            return cursor.fetchall()

    return check(Evidence(query, settings.MEDIA_ROOT, client.log), AT_THE_END)


def server(folder: Path) -> PostgresServer:
    home = Home(folder)
    home.create()
    return PostgresServer(home)


def started(folder: Path) -> PostgresServer:
    found = server(folder)
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


@contextmanager
def serving(folder: Path) -> Iterator[Client]:
    """Prepare the database, start web and two workers, and send jobs all the time."""
    call_command("migrate", verbosity=0)
    make_tiny_release(folder / "tiny", name="tiny", kind="student", steps=STEPS)
    releases.activate(releases.register(folder / "tiny"))
    make_variant(slug="vase", text="a red glass vase")
    assert encoding.encode_missing() == 0
    key = make_key()[1]
    with connection.cursor() as cursor:
        cursor.execute(TRIGGER)
    web = Web(folder, DATA_DIR=str(settings.DATA_DIR))
    client = Client(web, key)
    try:
        with workers(folder) as start:
            seconds = {"LEASE_SECONDS": str(LEASE_SECONDS), "SWEEP_SECONDS": str(SWEEP_SECONDS)}
            for name in ("generation-1", "generation-2"):
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
    primary, standby = started(tmp_path / "primary"), server(tmp_path / "standby")
    try:
        copy: list[str | Path] = [
            standby.server.programs / "pg_basebackup",
            "--pgdata",
            standby.server.data,
        ]
        source = primary.url.removesuffix(f"/{DATABASE}")
        done = standby.server.account.run(
            [*copy, "--dbname", source, "--write-recovery-conf", "--checkpoint=fast"]
        )
        assert done.returncode == 0, done.stderr
        standby.start()
        primary.set("synchronous_standby_names", "*")
        eventually(
            lambda: primary.query("SELECT sync_state FROM pg_stat_replication") == [("sync",)]
        )
        yield primary, standby
    finally:
        primary.end()
        standby.end()


def test_a_failover_loses_no_accepted_job(connect, pair, tmp_path: Path):
    primary, standby = pair
    connect(primary, standby)
    with serving(tmp_path) as client:
        eventually(is_any_running, seconds=PATIENCE_SECONDS)
        primary.crash()
        client.wait_for("refused", 5)
        standby.query("SELECT pg_promote()")
        client.wait_for("accepted", 10)

        client.drain()
        assert violations(client) == []


# --- a full disk ----------------------------------------------------------------------------------
@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("only root may mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(ballast: Path) -> None:
    """Use up the free space, to the last page."""
    with ballast.open("ab", buffering=0) as file:
        for size in (1 << 20, 1 << 12):
            with suppress(OSError):
                while True:
                    file.write(bytes(size))


@contextmanager
def full(disk: Path) -> Iterator[None]:
    """Use up all space, also what PostgreSQL frees, and release it at the end."""
    ballast = disk / "ballast"
    filling = Repeating(lambda: fill(ballast), 0.2)
    try:
        yield
    finally:
        filling.stop()
        ballast.unlink()


def test_a_full_disk_loses_no_accepted_job_and_no_finished_image(
    connect, small_disk: Path, tmp_path: Path
):
    postgres = started(small_disk)
    try:
        connect(postgres)
        postgres.set("autovacuum", "off")  # it frees space in tables
        session = postgres.connect()  # opened before there is no space for a new one
        with serving(tmp_path) as client, session.cursor() as cursor:
            client.wait_for("accepted", 5)
            with full(small_disk):
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
