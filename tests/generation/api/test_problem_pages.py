"""Errors outside of views: all are problem documents, and none reveals internals."""

import pytest
from django.db import OperationalError
from django.test import Client

from generation.errors import QueueFull
from generation.jobs import submission
from tests.client import API, problem
from tests.factories import make_job

pytestmark = pytest.mark.django_db


def test_an_unknown_address_is_a_problem():
    problem(Client().get("/v1/pictures"), 404, "not_found")
    problem(Client().get("/v1/jobs/"), 404, "not_found")


def test_an_unsupported_method_is_a_problem_that_names_the_allowed_ones():
    answer = API().delete("/v1/jobs")

    problem(answer, 405, "method_not_allowed")
    assert {"GET", "POST"} <= set(answer["Allow"].split(", "))


def test_an_accept_header_that_cannot_be_met_is_a_problem():
    problem(API().get("/v1/jobs", headers={"Accept": "application/xml"}), 406, "not_acceptable")


def test_a_server_error_is_a_problem_without_internals(monkeypatch):
    def fault(*_: object, **__: object) -> None:
        raise RuntimeError("secret insides")

    monkeypatch.setattr(submission, "submit", fault)

    answer = API().post("/v1/jobs", {"variant": "x"})

    body = problem(answer, 500, "internal_error")
    assert "secret" not in answer.content.decode()
    assert body["retryable"] is False


def test_an_unreachable_database_is_reported_as_a_problem(monkeypatch):
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


def test_a_problem_names_its_page_the_job_and_the_trace():
    api = API()
    job = make_job(owner=api.owner)
    trace = {"traceparent": f"00-{'4bf92f3577b34da6a3ce929d0e0e4736'}-00f067aa0ba902b7-01"}

    body = problem(api.get(f"/v1/jobs/{job.id}?x=1", headers=trace), 400, "invalid_request")

    assert body["type"] == "http://testserver/v1/problems/invalid_request"
    assert api.get(body["type"]).status_code == 200
    assert (body["job_id"], body["trace_id"]) == (str(job.id), "4bf92f3577b34da6a3ce929d0e0e4736")
    assert "retry_after" not in body


@pytest.mark.parametrize(
    "sent",
    [
        None,
        "",
        "x",
        "00-" + "0" * 32 + "-00f067aa0ba902b7-01",
        "ff-" + "a" * 32 + "-00f067aa0ba902b7-01",
    ],
)
def test_an_invalid_trace_is_left_out(sent: str | None):
    headers = {} if sent is None else {"traceparent": sent}

    assert "trace_id" not in problem(API().get("/v1/jobs/no", headers=headers), 404, "not_found")


@pytest.mark.parametrize(
    ("known", "expected"), [(None, 2), (0, 2), (7, 7), (120, 120), (86_400, 120)]
)
def test_a_retryable_problem_has_a_bounded_retry_after_in_whole_seconds(
    monkeypatch, known: int | None, expected: int
):
    def full(*_: object, **__: object) -> None:
        raise QueueFull(retry_after=known)

    monkeypatch.setattr(submission, "submit", full)

    answer = API().post("/v1/jobs", {"variant": "x"})

    assert problem(answer, 503, "queue_full")["retry_after"] == expected
    assert answer["Retry-After"] == str(expected)


def test_an_error_in_the_body_has_a_pointer_and_one_in_the_query_has_none():
    body = problem(API().post("/v1/jobs", {"a/b~c": 1}), 400, "invalid_request")
    assert body["errors"][0]["pointer"] == "#/a~1b~0c"

    body = problem(API().post("/v1/jobs?x=1", {}), 400, "invalid_request")
    assert (body["errors"][0]["parameter"], "pointer" in body["errors"][0]) == ("x", False)


def test_a_foreign_host_is_a_problem_with_a_relative_type():
    body = problem(Client().get("/v1/jobs", headers={"Host": "nobody.example"}), 400, "bad_request")

    assert body["type"] == "/v1/problems/bad_request"


def test_html_pages_answer_refusals_with_json_problems():
    problem(Client().get("/v1/docs", headers={"Accept": "image/png"}), 406, "not_acceptable")
