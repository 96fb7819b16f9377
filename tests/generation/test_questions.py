"""Questions of the web process and answers of the encode worker, through a real Redis."""

import threading
import time

import pytest

from generation import questions
from generation.questions import Answer, Near, Question

pytestmark = pytest.mark.usefixtures("redis_server")

QUESTION = Question("a red vase", "e" * 64, "1.1.1")
ANSWER = Answer((Near(7, 0.99), Near(8, 0.5, "it does not say “red”")))


def test_an_answer_reaches_who_waits_for_it():
    asked = questions.put(QUESTION, seconds=5)
    assert asked
    taken: list[tuple[str, Question] | None] = []

    def work() -> None:
        time.sleep(0.2)
        taken.append(questions.take())
        questions.answer(asked, QUESTION, ANSWER)

    worker = threading.Thread(target=work)
    worker.start()

    assert questions.wait(asked, seconds=5) == ANSWER
    worker.join()
    assert taken == [(asked, QUESTION)]


def test_questions_are_taken_once_the_oldest_first():
    first, second = questions.put(QUESTION, seconds=5), questions.put(QUESTION, seconds=5)
    assert [questions.take(), questions.take()] == [(first, QUESTION), (second, QUESTION)]
    assert questions.take() is None


def test_what_nobody_has_taken_waits():
    assert not questions.are_waiting()
    questions.put(QUESTION, seconds=5)
    assert questions.are_waiting()
    questions.take()
    assert not questions.are_waiting()


def test_a_question_that_nobody_waits_for_any_more_is_dropped(redis_server):
    given_up = questions.put(QUESTION, seconds=5)
    waits = questions.put(QUESTION, seconds=5)
    redis_server.delete(questions.ASKED + str(given_up))  # as its time does
    assert questions.take() == (waits, QUESTION)


def test_no_answer_in_time_is_none():
    asked = questions.put(QUESTION, seconds=1)
    started = time.monotonic()
    assert questions.wait(str(asked), seconds=1) is None
    assert time.monotonic() - started < 3


def test_an_answer_is_known_for_an_hour_to_the_same_question_alone(redis_server):
    questions.answer("1", QUESTION, ANSWER)
    assert questions.known(QUESTION) == ANSWER
    assert 3500 < redis_server.ttl(QUESTION.key) <= 3600
    for other in (
        Question("a blue vase", "e" * 64, "1.1.1"),
        Question("a red vase", "f" * 64, "1.1.1"),
        Question("a red vase", "e" * 64, "2.3.5"),
    ):
        assert questions.known(other) is None


def test_a_failure_is_told_and_not_kept():
    asked = questions.put(QUESTION, seconds=5)
    questions.answer(str(asked), QUESTION, Answer(failure="no encoder"))
    assert questions.wait(str(asked), seconds=1) == Answer(failure="no encoder")
    assert questions.known(QUESTION) is None


def test_questions_and_answers_that_nobody_reads_do_not_pile_up(redis_server):
    for _ in range(questions.MOST_WAITING + 10):
        questions.put(QUESTION, seconds=1)
    questions.answer("unread", QUESTION, ANSWER)
    assert redis_server.llen(questions.WAITING) == questions.MOST_WAITING
    assert 0 < redis_server.ttl(questions.ANSWERED + "unread") <= questions.UNREAD_SECONDS
    assert all(redis_server.ttl(key) == 1 for key in redis_server.keys(questions.ASKED + "*"))
