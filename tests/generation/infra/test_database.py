"""States in which PostgreSQL answers but refuses to serve, as a client and a worker see them."""

import pytest
from django.db import connection
from django.test import Client
from django.urls import reverse

from generation.jobs import completion
from generation.jobs import lifecycle as jobs
from generation.models import APIKey, Attempt
from generation.worker import writing
from tests import fake_worker
from tests.client import API
from tests.factories import DEFAULT_TEXT, make_embedding, make_job, make_release

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis_server")]

STATES = {
    "read-only": "25006",
    "disk full": "53100",
    "too many connections": "53300",
    "shutting down": "57P01",
    "starting": "57P03",
    "statement timeout": "57014",
    "lock timeout": "55P03",
    "input/output error": "58030",
    "no table yet": "42P01",
    "damaged": "XX001",
}


def execute(sql: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql)


@pytest.fixture
def api() -> API:
    make_embedding(encoder_fingerprint=make_release().encoder_fingerprint)
    return API()


@pytest.fixture
def fails(api):
    """Let each insert of a job fail with this code."""

    def fail(code: str) -> None:
        execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN RAISE EXCEPTION 'refused' USING ERRCODE = '{code}'; END $$;"
            "CREATE TRIGGER refuse BEFORE INSERT ON generation_job EXECUTE FUNCTION refuse()"
        )

    yield fail
    connection.close()
    execute("DROP FUNCTION IF EXISTS refuse CASCADE")


@pytest.mark.parametrize("state", STATES)
def test_a_request_that_postgresql_cannot_serve_may_be_retried(api, fails, state):
    fails(STATES[state])

    answer = api.post("/v1/jobs", {"variant": "red-glass-vase"})

    assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
    assert answer.json()["retryable"] and int(answer["Retry-After"]) > 0


def test_a_request_that_postgresql_cannot_serve_is_refused_in_openais_format(api, fails):
    fails("25006")

    answer = api.post("/v1/images/generations", {"prompt": DEFAULT_TEXT})

    assert answer.status_code == 503 and int(answer["Retry-After"]) > 0, answer.content


def test_an_error_in_the_code_is_not_reported_as_an_outage(api, fails):
    fails("22012")  # division by zero
    assert api.post("/v1/jobs", {"variant": "red-glass-vase"}).status_code == 500


def test_a_standby_serves_reads_and_a_refused_write_opens_a_new_connection(api):
    job = make_job(owner=api.owner)
    APIKey.objects.update(last_used_at=None)
    execute("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY")

    assert api.get(f"/v1/jobs/{job.id}").status_code == 200
    refused = api.post("/v1/jobs", {"variant": "red-glass-vase"})
    again = api.post("/v1/jobs", {"variant": "red-glass-vase"})

    assert (refused.status_code, again.status_code) == (503, 202)


@pytest.mark.parametrize("name", ("login", "admin:login"))
def test_a_page_reports_that_postgresql_cannot_serve(name):
    execute("ALTER TABLE django_session RENAME TO django_session_away")
    try:
        client = Client(raise_request_exception=False)
        client.cookies["sessionid"] = "x" * 32
        answer = client.get(reverse(name), HTTP_ACCEPT="text/html")
    finally:
        execute("ALTER TABLE django_session_away RENAME TO django_session")

    assert answer.status_code == 503 and int(answer["Retry-After"]) > 0


def test_a_finished_image_is_kept_while_postgresql_accepts_no_writes(api):
    api.post("/v1/jobs", {"variant": "red-glass-vase"})
    (job,) = jobs.claim("worker-1").jobs
    result = fake_worker.result_of(job)
    execute("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY")

    writing.patiently(lambda: completion.commit([result]))

    assert api.get(f"/v1/jobs/{job.id}").json()["status"] == "succeeded"
    assert Attempt.objects.get().outcome == Attempt.Outcome.SUCCEEDED
