"""Clients that watch: the streams alone, and the whole web process under uvicorn with real Redis and PostgreSQL."""

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from uuid import UUID, uuid4

import httpx
import pytest
from django.utils import timezone

from generation.infra import events, notifications
from generation.jobs import lifecycle as jobs
from generation.models import APIKey, Job
from generation.realtime import sse as streaming
from generation.realtime.sse import HEADER, Stream, Streams
from tests import sse
from tests.factories import make_job, make_key
from tests.generation.realtime.test_hub import Proxy, hub_on, until
from tests.web import Web


# --- the streams alone ----------------------------------------------------------------------------
@dataclass
class Answer:
    """An answer of Django."""

    status: int
    body: bytes
    stream: Stream | None

    @property
    def is_failure(self) -> bool:
        return self.status >= 500


@dataclass
class Scenario:
    """One job, one client, and Django's answers about the job."""

    streams: Streams
    redis: object
    job_id: UUID = field(default_factory=uuid4)
    status: str = "running"
    http_status: int = 200
    requests: int = 0
    after: str = ""
    sent: bytearray = field(default_factory=bytearray)
    is_blocked: bool = False

    async def ask(self) -> Answer:
        self.requests += 1
        return self.answer()

    def answer(self) -> Answer:
        newest = self.redis.xrevrange(events.stream(self.job_id), count=1)
        ends = ("succeeded", "failed", "canceled")
        instruction = Stream(
            channel=events.channel(self.job_id), words=(events.WORD, *ends), ends=ends,
            key=events.stream(self.job_id), then="/", style="job", id=newest[0][0] if newest else "0-0",
            options={"kinds": ["status", "progress", "preview"]}, marks=events.marks(self.job_id, previews=True),
            is_final=self.status in ends, after=self.after,
        )  # fmt: skip
        body = json.dumps({"status": self.status, "attempt": 1}).encode()
        return Answer(self.http_status, body, instruction)

    async def write(self, content: bytes) -> None:
        while self.is_blocked:
            await asyncio.sleep(0.01)
        self.sent += content

    def add_progress(self, percent: int, *, at: str = "*") -> str:
        """Publish progress without `events.write`, and return the id of the event."""
        data = json.dumps({"percent": percent})
        event_id = self.redis.xadd(
            events.stream(self.job_id), {"kind": "progress", "data": data}, id=at
        )
        self.redis.publish(events.channel(self.job_id), events.WORD)
        return event_id

    def end(self, status: str = "succeeded") -> None:
        self.status = status
        self.redis.publish(events.channel(self.job_id), status)

    def run(self) -> "asyncio.Task[None]":
        first = self.answer()
        return asyncio.create_task(
            self.streams.run(first, asked_at=time.monotonic(), ask=self.ask, write=self.write)
        )

    @property
    def seen(self) -> list[sse.Event]:
        return sse.parse(bytes(self.sent))

    @property
    def summary(self) -> list[str]:
        return [
            str(event.json()["percent"]) if event.name == "progress" else event.name
            for event in self.seen
        ]


@contextlib.asynccontextmanager
async def prepared_scenario(redis_server, url: str) -> AsyncIterator[Scenario]:
    async with hub_on(url) as hub:
        await until(lambda: hub.is_connected)
        streams = Streams(url, hub, recheck_seconds=lambda: 5.0 if hub.is_connected else 0.2)
        made = Scenario(streams, redis_server)
        made.add_progress(0)  # so that the stream has a first id
        try:
            yield made
        finally:
            await streams.aclose()


def run_scenario(redis_server, settings, action: Callable, *, url: str = "") -> None:
    async def whole() -> None:
        async with prepared_scenario(redis_server, url or settings.REDIS_URL) as made:
            async with asyncio.timeout(20):
                await action(made)

    asyncio.run(whole())


def test_a_client_gets_the_state_each_event_at_once_and_the_end(redis_server, settings):
    async def action(made: Scenario) -> None:
        running = made.run()
        await until(lambda: made.summary == ["snapshot"])
        first, second = made.add_progress(10), made.add_progress(20)
        await until(lambda: len(made.seen) == 3)
        assert made.requests == 0
        made.end()
        await running

        assert made.summary == ["snapshot", "10", "20", "succeeded"]
        assert [event.id for event in made.seen[1:]] == [first, second, f"{second}-end"]
        assert made.requests == 1
        assert made.sent.startswith(b"retry: 1000\n\n")

    run_scenario(redis_server, settings, action)


def test_a_reconnecting_client_gets_missed_events_and_no_snapshot(redis_server, settings):
    async def action(made: Scenario) -> None:
        ids = [made.add_progress(percent) for percent in range(1, 41)]  # more than one page
        made.after = ids[1]
        running = made.run()
        await until(lambda: len(made.seen) == 38)
        made.add_progress(99)
        await until(lambda: len(made.seen) == 39)
        made.end()
        await running

        assert made.summary == [*map(str, range(3, 41)), "99", "succeeded"]

    run_scenario(redis_server, settings, action)


def test_a_reconnecting_client_gets_no_state_again_unless_an_event_was_lost(redis_server, settings):
    async def action(made: Scenario) -> None:
        made.streams.recheck_seconds = lambda: 0.1
        made.after = made.add_progress(1)
        running = made.run()
        await until(lambda: made.requests >= 3)
        assert made.summary == []
        made.status = "queued"  # the message about it was lost
        await until(lambda: made.summary == ["snapshot"])
        made.end()
        await running

    run_scenario(redis_server, settings, action)


def test_a_client_reconnecting_after_the_end_gets_missed_events_and_the_end(redis_server, settings):
    async def action(made: Scenario) -> None:
        ids = [made.add_progress(percent) for percent in (1, 2, 3)]
        made.after = ids[1]
        made.end("failed")
        await made.run()

        assert made.summary == ["3", "failed"]

    run_scenario(redis_server, settings, action)


def test_a_stream_without_the_last_seen_event_begins_with_a_snapshot(redis_server, settings):
    async def action(made: Scenario) -> None:
        made.after = made.add_progress(1)
        newest = [made.add_progress(percent) for percent in (2, 3)][-1]
        redis_server.xtrim(events.stream(made.job_id), minid=newest, approximate=False)
        running = made.run()
        await until(lambda: made.summary == ["snapshot"])
        assert made.seen[0].id == newest
        made.add_progress(4)
        made.end()
        await running

        assert made.summary == ["snapshot", "4", "succeeded"]

    run_scenario(redis_server, settings, action)


def test_a_stream_that_is_lost_meanwhile_is_compensated_by_a_snapshot(redis_server, settings):
    async def action(made: Scenario) -> None:
        running = made.run()
        await until(lambda: made.summary == ["snapshot"])
        made.add_progress(10)
        await until(lambda: len(made.seen) == 2)
        redis_server.delete(events.stream(made.job_id))
        made.add_progress(20)
        await until(lambda: len(made.seen) == 3)
        made.add_progress(30)
        await until(lambda: len(made.seen) == 4)
        made.end()
        await running

        assert made.summary == ["snapshot", "10", "snapshot", "30", "succeeded"]

    run_scenario(redis_server, settings, action)


def test_comments_are_sent_while_there_are_no_events(redis_server, settings, monkeypatch):
    monkeypatch.setattr(streaming, "HEARTBEAT_SECONDS", 0.2)

    async def action(made: Scenario) -> None:
        running = made.run()
        await asyncio.sleep(1)
        made.end()
        await running

        assert 3 <= made.sent.count(b":\n\n") <= 5
        assert made.summary == ["snapshot", "succeeded"]

    run_scenario(redis_server, settings, action)


def test_without_redis_state_and_end_are_sent_and_events_again_when_it_is_back(
    redis_server, settings, monkeypatch
):
    monkeypatch.setattr(streaming, "POLL_SECONDS", 0.5)

    async def whole() -> None:
        proxy = Proxy(settings.REDIS_URL)
        await proxy.restore()
        async with prepared_scenario(redis_server, proxy.url) as made:
            made.status = "queued"
            running = made.run()
            await until(lambda: made.summary == ["snapshot"])
            await proxy.cut()
            await until(lambda: not made.streams.hub.is_connected)
            made.status = "running"
            await until(lambda: made.summary == ["snapshot", "snapshot"])
            assert made.seen[1].json()["status"] == "running"

            await proxy.restore()
            await until(lambda: made.streams.hub.is_connected)
            made.add_progress(50)
            await until(lambda: made.summary[-1] == "50", seconds=8)
            await proxy.cut()
            made.status = "canceled"
            await asyncio.wait_for(running, 5)

            assert made.summary[-1] == "canceled"

    asyncio.run(whole())


def test_an_event_whose_notification_was_lost_is_sent_later(redis_server, settings, monkeypatch):
    monkeypatch.setattr(streaming, "POLL_SECONDS", 0.3)

    async def action(made: Scenario) -> None:
        running = made.run()
        await until(lambda: made.summary == ["snapshot"])
        redis_server.xadd(
            events.stream(made.job_id), {"kind": "progress", "data": '{"percent": 7}'}
        )
        await until(lambda: made.summary == ["snapshot", "7"])
        made.end()
        await running

    run_scenario(redis_server, settings, action)


@pytest.mark.slow
def test_the_marks_of_a_job_last_while_a_client_watches(redis_server, settings, monkeypatch):
    monkeypatch.setattr(streaming, "POLL_SECONDS", 0.2)

    async def action(made: Scenario) -> None:
        first = made.answer()
        first.stream = replace(first.stream, mark_seconds=1)
        running = asyncio.create_task(
            made.streams.run(first, asked_at=time.monotonic(), ask=made.ask, write=made.write)
        )
        for mark in first.stream.marks:
            redis_server.set(mark, 1, ex=1)
        await asyncio.sleep(2)
        assert all(redis_server.exists(mark) for mark in first.stream.marks)
        made.end()
        await running
        await asyncio.sleep(1.2)
        assert not any(redis_server.exists(mark) for mark in first.stream.marks)

    run_scenario(redis_server, settings, action)


def test_a_temporary_failure_does_not_end_a_stream_and_a_refusal_does(redis_server, settings):
    async def action(made: Scenario) -> None:
        running = made.run()
        await until(lambda: made.summary == ["snapshot"])
        made.http_status = 503
        made.end()
        await until(lambda: made.requests >= 1)
        await asyncio.sleep(0.1)
        assert made.summary == ["snapshot"]
        made.http_status = 401
        made.end()
        await running

        assert made.summary == ["snapshot", "problem"]

    run_scenario(redis_server, settings, action)


def test_a_client_that_reads_nothing_costs_one_page_and_is_disconnected(
    redis_server, settings, monkeypatch
):
    monkeypatch.setattr(streaming, "SEND_SECONDS", 1)
    pages = []

    async def action(made: Scenario) -> None:
        read = made.streams.read

        async def counted(*arguments):
            pages.append(arguments)
            return await read(*arguments)

        monkeypatch.setattr(made.streams, "read", counted)
        running = made.run()
        await until(lambda: made.summary == ["snapshot"])
        made.is_blocked = True
        for percent in range(100):
            made.add_progress(percent)
        await asyncio.sleep(0.5)
        assert len(pages) <= 2
        with pytest.raises(TimeoutError):
            await running

    run_scenario(redis_server, settings, action)


def test_closing_ends_all_streams_without_a_last_event_and_new_ones_at_once(redis_server, settings):
    async def action(made: Scenario) -> None:
        running = made.run()
        await until(lambda: made.summary == ["snapshot"])
        made.is_blocked = True
        made.add_progress(1)
        await asyncio.sleep(0.05)

        made.streams.hub.close()
        made.streams.close()
        await asyncio.wait_for(running, 0.5)
        await asyncio.wait_for(made.run(), 0.5)

        assert made.summary == ["snapshot"]
        assert len(made.streams) == 0

    run_scenario(redis_server, settings, action)


def test_a_disconnected_client_leaves_no_entries(redis_server, settings):
    async def action(made: Scenario) -> None:
        running = made.run()
        await until(lambda: made.streams.hub.waiters > 0)

        running.cancel()
        await until(lambda: len(made.streams) == 0 and made.streams.hub.waiters == 0)

    run_scenario(redis_server, settings, action)


def test_data_of_several_lines_and_special_characters_arrive_unchanged():
    body = '{\n "a": "\u2028 \u0085 ü",\r\n "b": 1}'.encode()

    (event,) = sse.parse(streaming.frame(streaming.Sent("snapshot", body), "1-1"))

    assert json.loads(event.data) == json.loads(body)


def test_the_instruction_survives_encoding_as_a_header():
    instruction = Stream(
        "c", ("a", "b"), ("b",), "k", "/t?x=1", "job", {"kinds": ["ü"]}, marks=("m",)
    )

    assert Stream.decode(instruction.encode()) == instruction
    assert instruction.encode().isascii()


# --- the web process ------------------------------------------------------------------------------
@pytest.fixture
def key(transactional_db, redis_server) -> dict[str, str]:
    return {"Authorization": f"Bearer {make_key()[1]}"}


class Watching:
    """A client that reads the events of a job in a thread."""

    def __init__(self, web: Web, job: Job, key: dict[str, str], **headers: str) -> None:
        self.events: list[sse.Event] = []
        self.answer: httpx.Response | None = None
        self.is_whole = False
        self._ended = threading.Event()
        self._leaves = False
        self._url = f"{web.url}/v1/jobs/{job.id}/events"
        self._sent = {**key, **headers}
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        try:
            with httpx.stream("GET", self._url, headers=self._sent, timeout=60) as self.answer:
                for event in sse.events(self.answer.iter_lines()):
                    self.events.append(event)
                    if self._leaves:
                        return
                self.is_whole = True
        finally:
            self._ended.set()

    def has(self, count: int, seconds: float = 60) -> list[sse.Event]:
        deadline = time.monotonic() + seconds
        while len(self.events) < count:
            assert time.monotonic() < deadline, self.names
            time.sleep(0.01)
        return self.events

    def end(self, seconds: float = 60) -> list[sse.Event]:
        assert self._ended.wait(seconds), self.names
        return self.events

    def leave(self, job: Job) -> None:
        self._leaves = True
        progress(job, 99)
        self.end()

    @property
    def names(self) -> list[str]:
        return [event.name for event in self.events]


def progress(job: Job, percent: int) -> None:
    events.write([events.Event(job.id, "progress", {"percent": percent, "step": 1, "steps": 4})])


def requests_to_django(web: Web, job: Job) -> int:
    lines = web.log.read_text().splitlines()
    return sum(str(job.id) in line and "request_finished" in line for line in lines)


def test_a_watching_client_gets_the_state_changes_and_the_end(web: Web, key):
    job = make_job()
    watching = Watching(web, job, key, Accept="text/event-stream")
    watching.has(1)

    (taken,) = jobs.claim("worker-1").jobs
    progress(taken, 25)
    watching.has(3)
    jobs.cancel(job.id)

    seen = watching.end()
    assert watching.names == ["snapshot", "status", "progress", "canceled"]
    assert seen[0].json()["status"] == "queued"
    assert seen[1].json() == {"status": "running", "attempt": 1}
    assert seen[2].json() == {"percent": 25, "step": 1, "steps": 4}
    last = httpx.get(f"{web.url}/v1/jobs/{job.id}", headers=key).json()
    assert seen[3].json() == last and last["status"] == "canceled"
    assert len({event.id for event in seen}) == 4 and "" not in {event.id for event in seen}
    assert watching.is_whole and watching.answer
    headers = watching.answer.headers
    assert headers["content-type"] == "text/event-stream"
    assert (headers["cache-control"], headers["x-accel-buffering"]) == ("no-cache", "no")
    assert HEADER.lower() not in headers and "content-length" not in headers


def test_the_stream_of_an_ended_job_has_its_state_and_ends_at_once(web: Web, key):
    started = time.monotonic()
    watching = Watching(web, make_job(status="failed"), key)

    watching.end()
    assert watching.names == ["snapshot", "failed"]
    assert time.monotonic() - started < 30


def test_a_client_that_reconnects_with_the_last_id_gets_missed_events(web: Web, key):
    job = make_job(status="running")
    watching = Watching(web, job, key)
    watching.has(1)
    progress(job, 10)
    last_id = watching.has(2)[1].id
    watching.leave(job)
    for percent in (30, 40):
        progress(job, percent)

    again = Watching(web, job, key, **{"Last-Event-ID": last_id})
    again.has(3)
    jobs.cancel(job.id)
    again.end()

    assert again.names == ["progress"] * 3 + ["canceled"]
    assert [event.json()["percent"] for event in again.events[:3]] == [99, 30, 40]
    final = Watching(web, job, key, **{"Last-Event-ID": again.events[-1].id})
    final.end()
    assert final.answer is not None and final.answer.status_code == 204


def test_a_hundred_clients_watch_without_a_thread_or_a_connection_to_redis_each(
    web: Web, key, redis_server
):
    made = [make_job(seed=seed) for seed in range(20)]
    connections = len(redis_server.client_list())

    def cancel_all() -> None:
        from django.db import connection

        for job in made:
            progress(job, 50)
        for job in made:
            jobs.cancel(job.id)
        connection.close()

    async def watch(http: httpx.AsyncClient, job: Job, started_streams: list[int]) -> list[str]:
        names = []
        async with http.stream("GET", f"/v1/jobs/{job.id}/events") as answer:
            lines = [line async for line in _lines(answer, started_streams)]
            names = [event.name for event in sse.events(lines)]
        return names

    async def _lines(answer: httpx.Response, started_streams: list[int]) -> AsyncIterator[str]:
        async for line in answer.aiter_lines():
            if line == "event: snapshot":
                started_streams.append(1)
            yield line

    async def whole() -> list[list[str]]:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        async with httpx.AsyncClient(
            base_url=web.url, headers=key, limits=limits, timeout=300
        ) as http:
            started_streams: list[int] = []
            watching = [asyncio.create_task(watch(http, job, started_streams)) for job in made * 5]
            await until(lambda: len(started_streams) == 100, seconds=60)
            threads = len(list(Path(f"/proc/{web.process.pid}/task").iterdir()))
            assert threads < 40
            assert len(redis_server.client_list()) - connections < 20
            await asyncio.to_thread(cancel_all)
            return await asyncio.gather(*watching)

    assert {tuple(names) for names in asyncio.run(whole())} == {
        ("snapshot", "progress", "canceled")
    }


def test_a_client_that_disconnected_causes_no_more_requests(web: Web, key):
    job = make_job(status="running")
    watching = Watching(web, job, key)
    watching.has(1)
    watching.leave(job)
    time.sleep(0.1)
    before = requests_to_django(web, job)

    jobs.cancel(job.id)

    time.sleep(0.3)
    assert requests_to_django(web, job) == before


def test_a_slow_client_does_not_fill_the_memory(web: Web, key):
    job = make_job(status="running")

    def memory() -> int:
        status = Path(f"/proc/{web.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) // 1024

    with socket.create_connection(("127.0.0.1", web.port)) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        request = f"GET /v1/jobs/{job.id}/events HTTP/1.1\r\nHost: localhost\r\n"
        slow.sendall(f"{request}Authorization: {key['Authorization']}\r\n\r\n".encode())
        slow.recv(200)
        before = memory()
        picture = {"b64_json": "x" * 50_000}
        for _ in range(600):
            events.write([events.Event(job.id, "preview", picture)])
        time.sleep(0.5)
        assert memory() - before < 15  # of 30 MB
        answer = httpx.get(f"{web.url}/v1/jobs/{job.id}", headers=key, timeout=60)
        assert answer.status_code == 200


def test_a_lost_message_is_compensated_by_polling(web: Web, key):
    job = make_job()
    watching = Watching(web, job, key)
    watching.has(1)

    Job.objects.filter(id=job.id).update(status="canceled", finished_at=timezone.now())

    watching.end(8)
    assert watching.names == ["snapshot", "canceled"]


def test_a_key_that_is_revoked_ends_the_watching_with_the_reason(web: Web, key):
    job = make_job()
    watching = Watching(web, job, key)
    watching.has(1)

    APIKey.objects.update(revoked_at=timezone.now())
    notifications.moved([(job.id, "succeeded")])

    seen = watching.end()
    assert watching.names == ["snapshot", "problem"]
    assert seen[1].json()["status"] == 401


def test_refusals_are_ordinary_answers_and_the_internal_header_cannot_be_sent(web: Web, key):
    url = f"{web.url}/v1/jobs/{uuid4()}/events"
    accept = {"Accept": "text/event-stream"}
    missing = httpx.get(url, headers={**key, **accept})
    assert (missing.status_code, missing.json()["code"]) == (404, "not_found")
    assert httpx.get(url, headers=accept).status_code == 401
    forged = {HEADER: Stream("c", ("x",), ("x",), "k", "/v1/jobs", "job").encode()}
    plain = httpx.get(f"{web.url}/v1/jobs", headers={**key, **forged})
    assert (plain.status_code, "results" in plain.json()) == (200, True)
    head = httpx.head(f"{web.url}/v1/jobs/{make_job().id}/events", headers=key)
    assert (head.status_code, head.content) == (200, b"")
