"""Clients that wait: the hub alone, and the whole web process under uvicorn with real Redis and PostgreSQL."""

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from generation.infra import notifications
from generation.jobs import lifecycle as jobs
from generation.models import Job
from generation.realtime.hub import HEADER, Hub, Wait
from tests.factories import make_job, make_key
from tests.web import Web

WAIT = Wait("retort:job:1", ("succeeded", "failed"), 60, "/")


# --- the hub alone --------------------------------------------------------------------------------
class Proxy:
    """Proxy to Redis whose connections can be cut and restored."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname, parts.port)
        self._open: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.port = 0
        self._path = parts.path
        self._login = f":{parts.password}@" if parts.password else ""

    @property
    def url(self) -> str:
        return f"redis://{self._login}127.0.0.1:{self.port}{self._path}"

    async def restore(self) -> None:
        self._server = await asyncio.start_server(self._pass, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        assert self._server
        self._server.close()
        for writer in list(self._open):
            writer.transport.abort()
        await asyncio.sleep(0.02)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_reader, to_writer = await asyncio.open_connection(*self._target)
        self._open |= {writer, to_writer}
        await asyncio.gather(self._copy(reader, to_writer), self._copy(to_reader, writer))
        self._open -= {writer, to_writer}

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
        with contextlib.suppress(OSError, RuntimeError):
            writer.close()


@contextlib.asynccontextmanager
async def hub_on(url: str) -> AsyncIterator[Hub]:
    hub = Hub(url)
    hub.start()
    try:
        yield hub
    finally:
        hub.close()
        await asyncio.sleep(0.05)


async def until(condition, seconds: float = 5) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


def test_a_waiter_is_woken_only_by_its_channel_and_status(redis_server, settings):
    async def scenario() -> None:
        async with hub_on(settings.REDIS_URL) as hub:
            await until(lambda: hub.is_connected)
            waiting = asyncio.create_task(hub.moved(WAIT, since=time.monotonic(), timeout=5))
            await until(lambda: hub.waiters > 0)
            redis_server.publish("retort:job:2", "succeeded")
            redis_server.publish("retort:job:1", "running")
            await asyncio.sleep(0.1)
            assert not waiting.done()

            redis_server.publish("retort:job:1", "failed")

            assert await asyncio.wait_for(waiting, 1) is True
            assert hub.waiters == 0

    asyncio.run(scenario())


def test_a_change_between_the_first_answer_and_the_wait_is_not_missed(redis_server, settings):
    async def scenario() -> None:
        async with hub_on(settings.REDIS_URL) as hub:
            await until(lambda: hub.is_connected)
            asked_at = time.monotonic()
            redis_server.publish("retort:job:1", "succeeded")
            await asyncio.sleep(0.1)  # the hub has received it; there was no waiter yet

            assert await hub.moved(WAIT, since=asked_at, timeout=0.2) is True
            assert await hub.moved(WAIT, since=time.monotonic(), timeout=0.1) is False

    asyncio.run(scenario())


def test_a_wait_without_messages_ends_at_its_timeout_and_leaves_no_entry(redis_server, settings):
    async def scenario() -> None:
        async with hub_on(settings.REDIS_URL) as hub:
            await until(lambda: hub.is_connected)
            started = time.monotonic()

            assert await hub.moved(WAIT, since=started, timeout=0.2) is False

            assert 0.15 < time.monotonic() - started < 10
            assert hub.waiters == 0

    asyncio.run(scenario())


def test_all_waiters_are_woken_when_a_lost_connection_is_restored(redis_server, settings):
    async def scenario() -> None:
        proxy = Proxy(settings.REDIS_URL)
        await proxy.restore()
        async with hub_on(proxy.url) as hub:
            await until(lambda: hub.is_connected)
            waiting = asyncio.create_task(hub.moved(WAIT, since=time.monotonic(), timeout=10))
            await until(lambda: hub.waiters > 0)
            await proxy.cut()
            await until(lambda: not hub.is_connected)
            redis_server.publish("retort:job:1", "succeeded")  # without a subscriber
            assert not waiting.done()

            await proxy.restore()

            assert await asyncio.wait_for(waiting, 3) is True
            redis_server.publish("retort:job:1", "failed")
            assert await hub.moved(WAIT, since=time.monotonic(), timeout=1) is True
            await proxy.cut()

    asyncio.run(scenario())


def test_a_connection_made_after_the_first_answer_counts_as_a_change(redis_server, settings):
    async def scenario() -> None:
        asked_at = time.monotonic()
        async with hub_on(settings.REDIS_URL) as hub:
            await until(lambda: hub.is_connected)

            assert await hub.moved(WAIT, since=asked_at, timeout=5) is True

    asyncio.run(scenario())


def test_closing_wakes_all_waiters_permanently(redis_server, settings):
    async def scenario() -> None:
        async with hub_on(settings.REDIS_URL) as hub:
            await until(lambda: hub.is_connected)
            waiting = asyncio.create_task(hub.moved(WAIT, since=time.monotonic(), timeout=10))
            await until(lambda: hub.waiters > 0)

            hub.close()

            assert await asyncio.wait_for(waiting, 1) is True
            assert await hub.moved(WAIT, since=time.monotonic(), timeout=10) is True

    asyncio.run(scenario())


def test_a_server_that_accepts_connections_and_never_answers_does_not_count_as_connected():
    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            async with hub_on(f"redis://127.0.0.1:{silent.getsockname()[1]}/0") as hub:
                await asyncio.sleep(0.3)

                assert not hub.is_connected
                assert await hub.moved(WAIT, since=time.monotonic(), timeout=0.1) is False

    asyncio.run(scenario())


def test_the_instruction_survives_encoding_as_a_header():
    assert Wait.decode(WAIT.encode()) == WAIT
    assert WAIT.encode().isascii()


# --- the web process ------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def web_without_redis(django_db_setup, django_db_blocker, tmp_path_factory) -> Iterator[Web]:
    with django_db_blocker.unblock():
        web = Web(tmp_path_factory.mktemp("deaf"), redis_url="redis://127.0.0.1:1/0")
    yield web
    web.stop()


@pytest.fixture
def key(transactional_db, redis_server) -> dict[str, str]:
    return {"Authorization": f"Bearer {make_key()[1]}"}


def waited(
    web: Web, job: Job, key: dict[str, str], seconds: float, **headers: str
) -> tuple[httpx.Response, float]:
    started = time.monotonic()
    answer = httpx.get(
        f"{web.url}/v1/jobs/{job.id}",
        params={"wait": seconds},
        headers={**key, **headers},
        timeout=seconds + 300,
    )
    return answer, time.monotonic() - started


def later(seconds: float, action) -> threading.Timer:
    def run() -> None:
        from django.db import connection

        try:
            action()
        finally:
            connection.close()

    timer = threading.Timer(seconds, run)
    timer.start()
    return timer


def test_a_waiting_client_gets_the_final_answer_as_soon_as_the_job_has_ended(web: Web, key):
    job = make_job()
    cancel = later(0.5, lambda: jobs.cancel(job.id))

    answer, seconds = waited(web, job, key, 20)

    cancel.join()
    assert (answer.status_code, answer.json()["status"]) == (200, "canceled")
    assert 0.4 < seconds < 15
    assert "retry-after" not in answer.headers


def test_at_the_deadline_the_answer_is_the_state_as_it_is(web: Web, key):
    job = make_job()
    later(0.3, lambda: Job.objects.filter(id=job.id).update(priority=7)).join()

    answer, seconds = waited(web, job, key, 0.7)

    assert (answer.status_code, answer.json()["status"], answer.json()["priority"]) == (
        200,
        "queued",
        7,
    )
    assert 0.6 < seconds < 15
    assert answer.headers["retry-after"]


def test_a_job_that_has_ended_is_answered_at_once(web: Web, key):
    answer, seconds = waited(web, make_job(status="failed"), key, 20)

    assert (answer.json()["status"], seconds < 15) == ("failed", True)


def test_an_error_is_answered_at_once_though_the_client_would_wait(web: Web, key):
    answer, seconds = waited(web, Job(id=make_job().id, status="queued"), {}, 20)
    assert (answer.status_code, seconds < 15) == (401, True)

    other = {
        "Authorization": f"Bearer {make_key(owner=make_job(owner=None).owner, scopes=['jobs:write'])[1]}"
    }
    answer, seconds = waited(web, make_job(), other, 20)
    assert (answer.status_code, seconds < 15) == (403, True)


def test_the_internal_header_can_be_neither_seen_nor_sent(web: Web, key):
    job = make_job()
    forged = Wait("retort:job:x", ("succeeded",), 60, "/v1/releases").encode()

    answer, seconds = waited(web, job, key, 0.3, **{HEADER: forged})

    assert answer.json()["id"] == str(job.id)
    assert seconds < 30
    assert HEADER.lower() not in {name.lower() for name in answer.headers}
    plain = httpx.get(f"{web.url}/v1/jobs/{job.id}", headers={**key, HEADER: forged})
    assert (plain.json()["id"], HEADER.lower() in plain.headers) == (str(job.id), False)


def test_a_key_that_is_revoked_while_its_client_waits_ends_the_waiting(web: Web, key):
    job = make_job()

    def revoke_and_end() -> None:
        from django.utils import timezone

        from generation.models import APIKey

        APIKey.objects.update(revoked_at=timezone.now())
        jobs.cancel(job.id)

    timer = later(0.3, revoke_and_end)
    answer, _ = waited(web, job, key, 20)
    timer.join()

    assert answer.status_code == 401


def test_a_message_without_a_change_does_not_end_the_waiting(web: Web, key):
    job = make_job()
    timer = later(0.2, lambda: notifications.moved([(job.id, "succeeded")]))

    answer, seconds = waited(web, job, key, 1)

    timer.join()
    assert (answer.json()["status"], seconds > 0.9) == ("queued", True)


def test_many_clients_wait_without_a_thread_each_and_others_are_served_meanwhile(web: Web, key):
    made = [make_job(seed=seed) for seed in range(60)]

    async def scenario() -> list[str]:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        async with httpx.AsyncClient(
            base_url=web.url, headers=key, limits=limits, timeout=300
        ) as http:
            waiting = [asyncio.create_task(http.get(f"/v1/jobs/{job.id}?wait=20")) for job in made]
            await asyncio.sleep(1)
            started = time.monotonic()
            assert (await http.get("/v1/jobs")).status_code == 200
            assert time.monotonic() - started < 15
            threads = len(list(Path(f"/proc/{web.process.pid}/task").iterdir()))
            assert threads < 40
            await asyncio.to_thread(cancel_all)
            return [(await answer).json()["status"] for answer in waiting]

    def cancel_all() -> None:
        from django.db import connection

        for job in made:
            jobs.cancel(job.id)
        connection.close()

    assert asyncio.run(scenario()) == ["canceled"] * len(made)


def test_a_client_that_disconnected_causes_no_more_requests(web: Web, key):
    job = make_job()
    with pytest.raises(httpx.ReadTimeout):
        httpx.get(f"{web.url}/v1/jobs/{job.id}?wait=30", headers=key, timeout=0.3)

    jobs.cancel(job.id)

    time.sleep(0.2)
    finished = [
        line
        for line in web.log.read_text().splitlines()
        if str(job.id) in line and "request_finished" in line
    ]
    assert len(finished) == 1  # no further request to Django for the client that left


def test_a_lost_message_is_compensated_by_polling(web: Web, key):
    """Publishers drop messages while they consider Redis unreachable; the row is authoritative."""
    job = make_job()

    def end_in_silence() -> None:
        from django.utils import timezone

        Job.objects.filter(id=job.id).update(status="canceled", finished_at=timezone.now())

    timer = later(0.2, end_in_silence)
    answer, seconds = waited(web, job, key, 30)

    timer.join()
    assert answer.json()["status"] == "canceled"
    assert seconds < 25


def test_without_redis_waiting_works_more_slowly(web_without_redis: Web, key):
    job = make_job()
    cancel = later(0.3, lambda: jobs.cancel(job.id))

    answer, seconds = waited(web_without_redis, job, key, 20)

    cancel.join()
    assert (answer.status_code, answer.json()["status"]) == (200, "canceled")
    assert seconds < 15


def test_without_redis_everything_that_needs_only_postgresql_answers(web_without_redis: Web, key):
    running = make_job(status="running")
    paths = {
        "/v1/jobs": 200,
        f"/v1/jobs/{running.id}": 200,
        "/metrics": 401,  # with a key of the API instead of the token
        "/health/ready": 503,
        "/health/live": 200,
    }

    for path, status in paths.items():
        started = time.monotonic()
        assert (
            httpx.get(f"{web_without_redis.url}{path}", headers=key, timeout=20).status_code
            == status
        )
        assert time.monotonic() - started < 15


def test_connections_to_postgresql_that_break_while_a_client_waits_do_not_end_the_waiting(
    web: Web, key
):
    job = make_job()

    def cut_then_cancel() -> None:
        from django.db import connection

        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
                " AND application_name = 'the web process of the tests'"
            )
            assert cursor.rowcount > 0
        notifications.moved([(job.id, "succeeded")])
        time.sleep(0.3)
        jobs.cancel(job.id)

    timer = later(0.3, cut_then_cancel)
    answer, _ = waited(web, job, key, 20)

    timer.join()
    assert (answer.status_code, answer.json()["status"]) == (200, "canceled")


def test_without_postgresql_answers_are_quick_and_correct(tmp_path: Path):
    web = Web(tmp_path, DATABASE_URL="postgres://nobody@127.0.0.1:1/nothing")
    headers = {"Authorization": "Bearer rt_a_b"}
    try:
        for path, status in {
            "/health/live": 200,
            "/health/ready": 503,
            "/metrics": 401,
            "/v1/jobs": 503,
        }.items():
            started = time.monotonic()
            answer = web.http.get(path, headers=headers)
            assert (answer.status_code, time.monotonic() - started < 15) == (status, True), path
        assert (answer.json()["code"], answer.headers["retry-after"]) == (
            "database_unavailable",
            "2",
        )
    finally:
        web.stop()


def test_a_slow_sender_does_not_delay_other_clients(web: Web, key):
    """Send more half-sent bodies than there are threads."""
    head = "POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 500\r\n"
    head += f"Authorization: {key['Authorization']}\r\n\r\n" + '{"variant":'
    slow = [socket.create_connection(("127.0.0.1", web.port)) for _ in range(12)]
    for connection in slow:
        connection.sendall(head.encode())
    time.sleep(0.3)

    started = time.monotonic()
    answer = httpx.get(f"{web.url}/v1/jobs", headers=key, timeout=60)

    assert (answer.status_code, time.monotonic() - started < 10) == (200, True)
    for connection in slow:
        connection.close()


def test_a_body_of_any_size_arrives_complete(web: Web, key):
    for size in (10, 100_000, 2_000_000):
        answer = httpx.post(
            f"{web.url}/v1/jobs", headers=key, json={"variant": "x", "unknown": "y" * size}
        )
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request"), size
    answer = httpx.post(f"{web.url}/v1/jobs", headers=key, json={"variant": "y" * 3_000_000})
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


def test_the_assets_of_the_admin_are_served_without_collecting_them(web: Web):
    page = httpx.get(f"{web.url}/admin/login/").text
    assert "/static/unfold/css/styles.css" in page

    answer = httpx.get(f"{web.url}/static/unfold/css/styles.css")

    assert (answer.status_code, answer.headers["content-type"].split(";")[0]) == (200, "text/css")


def test_a_request_is_one_json_line_with_its_id_and_its_job(web: Web, key):
    job = make_job()
    httpx.get(f"{web.url}/v1/jobs/{job.id}", headers=key)
    time.sleep(0.1)

    lines = [json.loads(line) for line in web.log.read_text().splitlines() if str(job.id) in line]
    lines = [line for line in lines if line["level"] != "debug"]

    assert len(lines) == 1
    assert (lines[0]["event"], lines[0]["job_id"], lines[0]["code"]) == (
        "request_finished",
        str(job.id),
        200,
    )
    assert lines[0]["request_id"]
