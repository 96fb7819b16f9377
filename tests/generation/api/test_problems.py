"""Pages of error codes: every code of the API has one, from this host only."""

import re

import pytest
import rest_framework.exceptions
from django.test import Client

import distillation.errors
import generation.engine.errors
import generation.errors
from generation.api import problems
from tests.client import problem

NOT_OVER_THE_API = {
    "generation_error",
    "engine_error",  # the two bases
    "release_refused",
    "key_refused",
    "detector_refused",  # of the admin and the commands
    "text_too_long",  # a log line and a state of the catalogue
}
NOT_OF_THE_FRAMEWORK = {"error", "invalid", "throttled"}  # no view of Retort raises them


def codes() -> set[str]:
    modules = (generation.errors, generation.engine.errors, distillation.errors)
    words = [word for module in modules for word in vars(module).items()]
    ours = {kind.code for _, kind in words if isinstance(kind, type) and hasattr(kind, "code")}
    constants = {word for name, word in words if name.isupper() and isinstance(word, str)}
    framework = {
        kind.default_code
        for kind in vars(rest_framework.exceptions).values()
        if isinstance(kind, type) and hasattr(kind, "default_code")
    }
    return (ours | constants | framework) - NOT_OVER_THE_API - NOT_OF_THE_FRAMEWORK


def test_every_code_that_a_client_can_receive_has_a_page():
    assert NOT_OVER_THE_API.isdisjoint(known.code for known in problems.known())
    assert {code for code in codes() if problems.find(code) is None} == set()


def test_facts_of_a_code_are_those_of_its_class():
    known = problems.find("queue_full")

    assert known is not None
    assert (known.title, known.status, known.retryable) == (
        "The queue is full",
        503,
        True,
    )


@pytest.mark.django_db
def test_every_page_explains_the_cause_and_the_remedy():
    client = Client()

    for known in problems.known():
        answer = client.get(f"/v1/problems/{known.code}", headers={"Accept": "text/html"})
        page = answer.content.decode()
        assert (answer.status_code, answer["Content-Type"]) == (200, "text/html; charset=utf-8")
        assert f"<code>{known.code}</code>" in page
        assert known.when and known.remedy, known.code
        for text in (known.title, known.when, known.remedy):
            assert text.replace("'", "&#x27;").replace("<", "&lt;") in page, known.code


@pytest.mark.django_db
def test_the_list_links_to_every_page_and_loads_nothing_from_other_hosts():
    page = Client().get("/v1/problems").content.decode()

    linked = set(re.findall(r'href="/v1/problems/(\w+)"', page))
    assert linked == {known.code for known in problems.known()}
    assert "http" not in page and "<script" not in page
    assert '<meta name="color-scheme" content="light dark">' in page


@pytest.mark.django_db
def test_an_unknown_code_has_no_page():
    problem(Client().get("/v1/problems/nothing"), 404, "not_found")
    problem(Client().post("/v1/problems"), 405, "method_not_allowed")
    assert "queue_full" in Client().get("/v1/problems?utm_source=mail").content.decode()
