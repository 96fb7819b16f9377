"""Match requests of the web process and answers of the encode worker, through a real Redis."""

import threading
import time

import pytest

from generation.catalogue import match_requests
from generation.catalogue.match_requests import Answer, Near, Question

pytestmark = pytest.mark.usefixtures("redis_server")

QUESTION = Question("a red vase", "e" * 64, "1.1.1")
ANSWER = Answer((Near(7, 0.99), Near(8, 0.5, "it does not have the word “red”")))


def test_an_answer_reaches_the_waiting_process():
    question_id = match_requests.put(QUESTION, seconds=5)
    assert question_id
    taken: list[tuple[str, Question] | None] = []

    def work() -> None:
        time.sleep(0.2)
        taken.append(match_requests.take())
        match_requests.answer(question_id, QUESTION, ANSWER)

    worker = threading.Thread(target=work)
    worker.start()

    assert match_requests.wait(question_id, seconds=5) == ANSWER
    worker.join()
    assert taken == [(question_id, QUESTION)]


def test_questions_are_taken_once_and_oldest_first():
    first, second = match_requests.put(QUESTION, seconds=5), match_requests.put(QUESTION, seconds=5)
    assert [match_requests.take(), match_requests.take()] == [(first, QUESTION), (second, QUESTION)]
    assert match_requests.take() is None


def test_a_question_that_was_not_taken_is_waiting():
    assert not match_requests.are_waiting()
    match_requests.put(QUESTION, seconds=5)
    assert match_requests.are_waiting()
    match_requests.take()
    assert not match_requests.are_waiting()


def test_an_abandoned_question_is_dropped(redis_server):
    given_up = match_requests.put(QUESTION, seconds=5)
    waits = match_requests.put(QUESTION, seconds=5)
    redis_server.delete(match_requests.ASKED + str(given_up))  # as its expiry does
    assert match_requests.take() == (waits, QUESTION)


def test_a_timeout_returns_none():
    question_id = match_requests.put(QUESTION, seconds=1)
    started = time.monotonic()
    assert match_requests.wait(str(question_id), seconds=1) is None
    assert time.monotonic() - started < 30


def test_an_answer_is_cached_for_an_hour_for_the_same_question_only(redis_server):
    match_requests.answer("1", QUESTION, ANSWER)
    assert match_requests.known(QUESTION) == ANSWER
    assert 3500 < redis_server.ttl(QUESTION.key) <= 3600
    for other in (
        Question("a blue vase", "e" * 64, "1.1.1"),
        Question("a red vase", "f" * 64, "1.1.1"),
        Question("a red vase", "e" * 64, "2.3.5"),
    ):
        assert match_requests.known(other) is None


def test_a_failure_is_returned_and_not_cached():
    question_id = match_requests.put(QUESTION, seconds=5)
    match_requests.answer(str(question_id), QUESTION, Answer(failure="no encoder"))
    assert match_requests.wait(str(question_id), seconds=1) == Answer(failure="no encoder")
    assert match_requests.known(QUESTION) is None


def test_unread_questions_and_answers_do_not_accumulate(redis_server):
    for _ in range(match_requests.MAX_WAITING + 10):
        match_requests.put(QUESTION, seconds=60)
    match_requests.answer("unread", QUESTION, ANSWER)
    assert redis_server.llen(match_requests.WAITING) == match_requests.MAX_WAITING
    assert 0 < redis_server.ttl(match_requests.ANSWERED + "unread") <= match_requests.UNREAD_SECONDS
    question_id = redis_server.keys(match_requests.ASKED + "*")
    assert question_id and all(0 < redis_server.ttl(key) <= 60 for key in question_id)
