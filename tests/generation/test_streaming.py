"""Clients that watch: the streams alone, and the whole web process under uvicorn with real Redis and PostgreSQL."""

import contextlib
import threading
import time
from collections.abc import Iterator

import httpx
import pytest

from generation import events, jobs
from generation.models import Job
from generation.streaming import HEADER
from tests import sse
from tests.people import make_job, make_key
from tests.web import Web


# --- the web process ------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def web(django_db_setup, django_db_blocker, tmp_path_factory) -> Iterator[Web]:
    with django_db_blocker.unblock():
        web = Web(tmp_path_factory.mktemp("web"))
    yield web
    web.stop()


@pytest.fixture
def key(transactional_db, redis_server) -> dict[str, str]:
    return {"Authorization": f"Bearer {make_key()[1]}"}


class Watching:
    """A client that reads the events of a job in a thread."""

    def __init__(self, web: Web, job: Job, key: dict[str, str], **headers: str) -> None:
        self.events: list[sse.Event] = []
        self.headers: httpx.Headers | None = None
        self.ended = threading.Event()
        self.seconds = 0.0
        self._url = f"{web.url}/v1/jobs/{job.id}/events"
        self._sent = {**key, **headers}
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        started = time.monotonic()
        with (
            contextlib.suppress(httpx.TransportError),
            httpx.stream("GET", self._url, headers=self._sent, timeout=60) as answer,
        ):
            self.headers = answer.headers
            for event in sse.events(answer.iter_lines()):
                self.events.append(event)
        self.seconds = time.monotonic() - started
        self.ended.set()

    def has(self, count: int, seconds: float = 5) -> list[sse.Event]:
        deadline = time.monotonic() + seconds
        while len(self.events) < count:
            assert time.monotonic() < deadline, self.events
            time.sleep(0.01)
        return self.events

    def end(self, seconds: float = 10) -> list[sse.Event]:
        assert self.ended.wait(seconds), self.events
        return self.events

    @property
    def names(self) -> list[str]:
        return [event.name for event in self.events]


def progress(job: Job, percent: int) -> None:
    events.tell([events.Event(job.id, "progress", {"percent": percent, "step": 1, "steps": 4})])


def test_a_watching_client_sees_the_state_what_changes_and_the_end(web: Web, key):
    job = make_job()
    watching = Watching(web, job, key)
    watching.has(1)

    (taken,) = jobs.claim("worker-1")
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
    assert watching.headers is not None
    assert watching.headers["content-type"] == "text/event-stream"
    assert HEADER.lower() not in watching.headers and "content-length" not in watching.headers
