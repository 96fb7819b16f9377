"""Match requests of the web process and answers of the encode worker, through a real Redis."""

import threading
import time

import pytest

from generation.catalogue import match_requests
from generation.catalogue.match_requests import Answer, Near, Question

pytestmark = pytest.mark.usefixtures("redis_server")

QUESTION = Question("a red vase", "e" * 64, "1.1.1")
ANSWER = Answer((Near(7, 0.99), Near(8, 0.5, "it does not have the word “red”")))


def test_an_answer_reaches_who_waits_for_it():
    asked = match_requests.put(QUESTION, seconds=5)
    assert asked
    taken: list[tuple[str, Question] | None] = []

    def work() -> None:
        time.sleep(0.2)
        taken.append(match_requests.take())
        match_requests.answer(asked, QUESTION, ANSWER)

    worker = threading.Thread(target=work)
    worker.start()

    assert match_requests.wait(asked, seconds=5) == ANSWER
    worker.join()
    assert taken == [(asked, QUESTION)]


def test_questions_are_taken_once_the_oldest_first():
    first, second = match_requests.put(QUESTION, seconds=5), match_requests.put(QUESTION, seconds=5)
    assert [match_requests.take(), match_requests.take()] == [(first, QUESTION), (second, QUESTION)]
    assert match_requests.take() is None


def test_what_nobody_has_taken_waits():
    assert not match_requests.are_waiting()
    match_requests.put(QUESTION, seconds=5)
    assert match_requests.are_waiting()
    match_requests.take()
    assert not match_requests.are_waiting()


def test_a_question_that_nobody_waits_for_any_more_is_dropped(redis_server):
    given_up = match_requests.put(QUESTION, seconds=5)
    waits = match_requests.put(QUESTION, seconds=5)
    redis_server.delete(match_requests.ASKED + str(given_up))  # as its time does
    assert match_requests.take() == (waits, QUESTION)


def test_no_answer_in_time_is_none():
    asked = match_requests.put(QUESTION, seconds=1)
    started = time.monotonic()
    assert match_requests.wait(str(asked), seconds=1) is None
    assert time.monotonic() - started < 30


def test_an_answer_is_known_for_an_hour_to_the_same_question_alone(redis_server):
    match_requests.answer("1", QUESTION, ANSWER)
    assert match_requests.known(QUESTION) == ANSWER
    assert 3500 < redis_server.ttl(QUESTION.key) <= 3600
    for other in (
        Question("a blue vase", "e" * 64, "1.1.1"),
        Question("a red vase", "f" * 64, "1.1.1"),
        Question("a red vase", "e" * 64, "2.3.5"),
    ):
        assert match_requests.known(other) is None


def test_a_failure_is_told_and_not_kept():
    asked = match_requests.put(QUESTION, seconds=5)
    match_requests.answer(str(asked), QUESTION, Answer(failure="no encoder"))
    assert match_requests.wait(str(asked), seconds=1) == Answer(failure="no encoder")
    assert match_requests.known(QUESTION) is None


def test_questions_and_answers_that_nobody_reads_do_not_pile_up(redis_server):
    for _ in range(match_requests.MOST_WAITING + 10):
        match_requests.put(QUESTION, seconds=60)
    match_requests.answer("unread", QUESTION, ANSWER)
    assert redis_server.llen(match_requests.WAITING) == match_requests.MOST_WAITING
    assert 0 < redis_server.ttl(match_requests.ANSWERED + "unread") <= match_requests.UNREAD_SECONDS
    asked = redis_server.keys(match_requests.ASKED + "*")
    assert asked and all(0 < redis_server.ttl(key) <= 60 for key in asked)
