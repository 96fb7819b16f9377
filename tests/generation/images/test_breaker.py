"""Circuit breaker of the storage: pauses, probes, calls at once."""

import os
import threading

import pytest

from generation.errors import StorageFailed
from generation.images import breaker
from generation.images.breaker import CALLS_AT_ONCE, PAUSE_SECONDS, Breaker


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Answer(Exception):
    """An error in a response of the server."""


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock) -> Breaker:
    return Breaker(lambda error: isinstance(error, Answer), clock=clock)


def fail(store: Breaker, error: type[Exception] = TimeoutError) -> None:
    with pytest.raises(error), store.call():
        raise error


def succeed(store: Breaker) -> None:
    with store.call():
        pass


def refuse(store: Breaker) -> None:
    with pytest.raises(StorageFailed, match="does not answer") as caught, store.call():
        pytest.fail("the server was called")
    assert caught.value.retryable and caught.value.retry_after >= 1


def test_after_a_call_without_an_answer_others_fail_at_once_until_one_probes(store, clock):
    fail(store)
    refuse(store)
    clock.now += PAUSE_SECONDS

    with store.call():  # the probe
        refuse(store)

    succeed(store)


def test_a_probe_without_an_answer_begins_another_pause(store, clock):
    fail(store)
    clock.now += PAUSE_SECONDS
    fail(store)

    refuse(store)
    clock.now += PAUSE_SECONDS
    succeed(store)


def test_an_error_that_the_server_answers_begins_no_pause(store):
    fail(store, Answer)

    succeed(store)


def test_a_call_that_fails_late_begins_no_pause_if_the_server_has_answered_since(store, clock):
    with pytest.raises(TimeoutError), store.call():
        clock.now += 1
        succeed(store)
        raise TimeoutError

    succeed(store)


def test_while_few_calls_hang_others_wait_briefly_and_then_fail_at_once(store, monkeypatch):
    monkeypatch.setattr(breaker, "WAIT_SECONDS", 0.05)
    goes_on, begun = threading.Event(), threading.Semaphore(0)

    def hang() -> None:
        with store.call():
            begun.release()
            goes_on.wait(60)

    hanging = [threading.Thread(target=hang) for _ in range(CALLS_AT_ONCE)]
    for thread in hanging:
        thread.start()
    assert all(begun.acquire(timeout=60) for _ in hanging)

    refuse(store)  # after waiting
    monkeypatch.setattr(breaker, "WAIT_SECONDS", 60)
    refuse(store)  # at once

    goes_on.set()
    for thread in hanging:
        thread.join(60)
    succeed(store)


# --- calls without a time limit of their own ------------------------------------------------------
def test_the_result_and_the_error_of_a_call_in_another_thread_are_passed_on(store):
    assert store.run(lambda: 7, seconds=60) == 7
    with pytest.raises(FileNotFoundError):
        store.run(lambda: os.stat("/nothing/here"), seconds=60)
    succeed(store)


def test_calls_that_hang_are_waited_for_briefly_and_keep_their_places_until_they_end(
    store, clock, monkeypatch
):
    monkeypatch.setattr(breaker, "WAIT_SECONDS", 0.05)
    goes_on = threading.Event()
    for _ in range(CALLS_AT_ONCE):
        with pytest.raises(StorageFailed, match="does not answer"):
            store.run(lambda: goes_on.wait(60), seconds=0.05)
        refuse(store)  # a pause
        clock.now += PAUSE_SECONDS
    refuse(store)  # without a place

    clock.now += PAUSE_SECONDS
    goes_on.set()
    monkeypatch.setattr(breaker, "WAIT_SECONDS", 60)
    succeed(store)


def test_a_call_for_which_there_is_no_thread_keeps_no_place(store, clock, monkeypatch):
    def refuse_to_start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse_to_start)
        for _ in range(CALLS_AT_ONCE):
            with pytest.raises(StorageFailed, match="can't start new thread"):
                store.run(lambda: 7, seconds=60)

    monkeypatch.setattr(breaker, "WAIT_SECONDS", 0.05)
    assert store.run(lambda: 7, seconds=60) == 7
