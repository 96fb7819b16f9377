"""The watchdog of a worker that receives no messages, or whose tasks hang."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import celery
import pytest
from celery import shared_task
from django.db import connection, transaction

from generation.infra import redis_client, stalls, watchdog
from generation.infra.bootstep import QueueStep
from generation.infra.stalls import EXIT_STALLED
from generation.infra.watchdog import EXIT_UNRESPONSIVE, Watchdog
from generation.releases import lifecycle as releases
from tests.celery_worker import workers
from tests.factories import make_variant
from tests.tiny import make_tiny_release

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_server")]


@pytest.fixture
def exits(settings, monkeypatch) -> list[int]:
    """Exit codes with which the process would have ended. The watchdog's time limit and pauses are short."""
    settings.DEAF_SECONDS = 0.05
    found: list[int] = []
    monkeypatch.setattr(watchdog.os, "_exit", found.append)
    monkeypatch.setattr(watchdog, "CHECK_SECONDS", 0)
    return found


def watching(*, is_waiting: bool = True) -> tuple[Watchdog, list[int]]:
    sent: list[int] = []
    return Watchdog(is_work_waiting=lambda: is_waiting, send=lambda: sent.append(1)), sent


def test_a_lost_message_is_sent_again_and_a_worker_that_receives_none_ends(exits):
    checker, sent = watching()
    checker.check()
    assert (sent, exits) == ([1], [])
    time.sleep(0.1)
    checker.check()
    assert (sent, exits) == ([1], [EXIT_UNRESPONSIVE])


def test_a_worker_without_work_is_not_ended(exits):
    checker, sent = watching(is_waiting=False)
    time.sleep(0.1)
    checker.check()
    assert (sent, exits) == ([], [])


def test_a_worker_that_runs_a_task_is_responsive_then_and_for_a_while_afterwards(exits):
    """Loading the tensor libraries alone may take longer than DEAF_SECONDS."""
    checker, sent = watching()

    @shared_task
    def long() -> None:
        time.sleep(0.1)
        checker.check()

    long.apply().get()
    checker.check()
    assert (sent, exits) == ([1], [])


def test_while_redis_is_unreachable_no_worker_is_ended(exits, settings, monkeypatch):
    checker, sent = watching()
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    monkeypatch.setattr(redis_client, "_client", None)
    monkeypatch.setattr(redis_client, "_resume_at", 0.0)
    time.sleep(0.1)
    checker.check()
    assert (sent, exits) == ([], [])


# --- tasks that hang ------------------------------------------------------------------------------
TASK_SECONDS = 1.0


@shared_task(name="tests.read")
def read(path: str) -> None:
    Path(path).read_bytes()


@shared_task(name="tests.read_slowly")
def read_slowly(path: str) -> None:
    for _ in range(8):
        time.sleep(TASK_SECONDS / 4)
        stalls.progressed()


@pytest.fixture
def fifo(tmp_path: Path) -> Iterator[Path]:
    """A file whose readers hang until the end of the test."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    yield path
    while reading := [one for one in threading.enumerate() if one.name == "task"]:
        os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))  # readers that wait for a writer return
        reading[0].join(0.1)


@pytest.fixture
def pool(exits):
    """Start a watched pool of `slots` threads that run these tasks. Return what is given back at a stall."""
    given_back: list[str] = []
    watched: list[Watchdog] = []

    def start(*tasks, slots: int, path: Path) -> list[str]:
        watched.append(
            Watchdog(
                is_work_waiting=lambda: False,
                send=lambda: None,
                task_seconds=TASK_SECONDS,
                slots=slots,
                give_back=given_back.append,
            )
        )
        for task in tasks:
            thread = threading.Thread(target=task.apply, args=[[str(path)]], name="task")
            thread.daemon = True
            thread.start()
        return given_back

    yield start
    for one in watched:
        one.end()


def until_exit(exits: list[int]) -> None:
    deadline = time.monotonic() + 60
    while not exits:
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("slots", [1, 2])
def test_a_process_all_of_whose_tasks_hang_gives_its_work_back_and_ends(exits, pool, fifo, slots):
    given_back = pool(*[read] * slots, slots=slots, path=fifo)

    until_exit(exits)

    assert exits == [EXIT_STALLED]
    assert given_back == ["No progress for 1 s: tests.read."]


@pytest.mark.parametrize(
    ("tasks", "slots"), [((read,), 2), ((read_slowly,), 1)], ids=["one of two", "with progress"]
)
def test_a_process_with_a_task_that_progresses_or_a_free_thread_goes_on(
    exits, pool, fifo, tasks, slots
):
    pool(*tasks, slots=slots, path=fifo)

    time.sleep(2 * TASK_SECONDS)  # nothing must happen

    assert exits == []


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_an_encode_worker_that_hangs_ends_and_says_where(tmp_path: Path, redis_server):
    make_tiny_release(tmp_path / "tiny", name="tiny", kind="teacher")
    releases.activate(releases.register(tmp_path / "tiny"))
    make_variant(slug="vase", text="a red glass vase")
    with transaction.atomic(), connection.cursor() as cursor:
        # Embeddings can be read, but not written, for a minute: longer than the bound.
        cursor.execute("LOCK TABLE generation_embedding IN EXCLUSIVE MODE")
        with workers(tmp_path) as start:
            worker = start(
                "encode", "encode", STALL_SECONDS="4"
            )  # loading torch must not be a stall

            assert worker.wait(300) == EXIT_STALLED

    log = worker.log.read_text()
    assert "worker_stalled" in log and "generation.encode" in log
    assert "generation/catalogue/" in log  # the stack of the thread that hangs


@pytest.mark.parametrize(("pool", "slots"), [("solo", 1), ("threads", 2)])
def test_a_step_knows_how_many_tasks_its_worker_runs_at_once(pool: str, slots: int):
    class Step(QueueStep):
        queue = "light"

        def begin(self) -> None:
            begun.append(self.slots)

    begun: list[int] = []
    worker = celery.current_app.WorkController(pool=pool, concurrency=2, queues=["light"])
    Step(worker).start(worker)

    assert begun == [slots]
