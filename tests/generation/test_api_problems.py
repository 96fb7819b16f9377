"""Errors that no view makes: every one of them is a problem document, and none shows our insides."""

import pytest
from django.db import OperationalError
from django.test import Client

from generation import submission
from tests.client import API, problem

pytestmark = pytest.mark.django_db


def test_an_unknown_address_is_a_problem():
    problem(Client().get("/v1/pictures"), 404, "not_found")
    problem(Client().get("/v1/jobs/"), 404, "not_found")


def test_a_method_that_is_not_there_is_a_problem_that_names_the_others():
    answer = API().delete("/v1/jobs")

    problem(answer, 405, "method_not_allowed")
    assert {"GET", "POST"} <= set(answer["Allow"].split(", "))


def test_an_accept_header_that_cannot_be_met_is_a_problem():
    problem(API().get("/v1/jobs", headers={"Accept": "application/xml"}), 406, "not_acceptable")


def test_a_fault_of_ours_is_a_problem_without_our_insides(monkeypatch):
    def fault(*_: object, **__: object) -> None:
        raise RuntimeError("secret insides")

    monkeypatch.setattr(submission, "submit", fault)

    answer = API().post("/v1/jobs", {"variant": "x"})

    body = problem(answer, 500, "internal_error")
    assert "secret" not in answer.content.decode()
    assert body["retryable"] is False


def test_a_database_that_does_not_answer_is_said_to_be_away(monkeypatch):
    def away(*_: object, **__: object) -> None:
        raise OperationalError("server closed the connection")

    monkeypatch.setattr(submission, "submit", away)

    answer = API().post("/v1/jobs", {"variant": "x"})

    assert problem(answer, 503, "database_unavailable")["retryable"] is True
    assert int(answer["Retry-After"]) >= 1


def test_a_problem_carries_the_id_under_which_it_is_logged():
    assert API().get("/v1/jobs/no").json().get("instance", "urn:uuid:").startswith("urn:uuid:")
    body = problem(API().get("/v1/jobs", {"x": 1}), 400, "invalid_request")
    assert body["instance"].startswith("urn:uuid:")
