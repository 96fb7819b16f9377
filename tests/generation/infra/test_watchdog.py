"""The watchdog of a worker that receives no messages."""

import time

import pytest
from celery import shared_task

from generation.infra import redis_client, watchdog
from generation.infra.watchdog import EXIT_UNRESPONSIVE, Watchdog

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
