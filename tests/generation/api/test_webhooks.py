"""Webhooks over HTTP: requested by a job, signed with the owner's secret, listed, enabled, replayed."""

from datetime import timedelta

import pytest
from django.utils import timezone

from generation.models import Delivery, Job, WebhookEndpoint
from generation.webhooks import endpoints as webhooks
from tests.client import API, problem
from tests.factories import (
    make_delivery,
    make_embedding,
    make_endpoint,
    make_job,
    make_release,
    make_user,
    make_variant,
)

pytestmark = pytest.mark.django_db

URL = "https://example.org/hook"


@pytest.fixture
def api() -> API:
    return API()


@pytest.fixture
def other_owner() -> API:
    return API(owner=make_user(username="stranger"))


# --- webhooks of jobs -----------------------------------------------------------------------------
@pytest.fixture
def vase() -> str:
    make_release()
    make_embedding(variant=make_variant(slug="vase"))
    return "vase"


def test_a_job_names_its_webhook(api, vase):
    answer = api.post(
        "/v1/jobs", {"variant": vase, "webhook": URL, "webhook_events": ["completed"]}
    )

    assert answer.status_code == 202
    job = Job.objects.get(id=answer.json()["id"])
    assert (job.webhook.url, job.webhook_events) == (URL, ["completed"])
    assert job.base_url == "http://testserver/"


@pytest.mark.parametrize(
    ("body", "parameter"),
    [
        ({"webhook": "http://example.org/"}, "webhook"),
        ({"webhook": "https://10.0.0.1/"}, "webhook"),
        ({"webhook": "https://example.org/" + "a" * 600}, "webhook"),
        ({"webhook": 7}, "webhook"),
        ({"webhook": None}, "webhook"),
        ({"webhook": URL, "webhook_events": []}, "webhook_events"),
        ({"webhook": URL, "webhook_events": "completed"}, "webhook_events"),
        ({"webhook_events": ["completed"]}, "webhook_events"),
    ],
)
def test_an_invalid_webhook_is_refused_with_its_parameter(api, vase, body: dict, parameter: str):
    refusal = problem(api.post("/v1/jobs", {"variant": vase, **body}), 400, "invalid_request")

    assert (
        refusal["parameter"] == parameter
        if "parameter" in refusal
        else parameter in refusal["detail"]
    )
    assert not Job.objects.exists()


def test_a_disabled_webhook_is_refused_with_advice(api, vase):
    endpoint = webhooks.disable(
        make_endpoint(owner=api.owner, url=URL), "The response was 410 Gone."
    )

    refusal = problem(
        api.post("/v1/jobs", {"variant": vase, "webhook": URL}), 409, "webhook_disabled"
    )

    assert f"/v1/webhooks/{endpoint.pk}/enable" in refusal["detail"]
    assert api.post(f"/v1/webhooks/{endpoint.pk}/enable").json()["state"] == "active"
    assert api.post("/v1/jobs", {"variant": vase, "webhook": URL}).status_code == 202


# --- the secret -----------------------------------------------------------------------------------
def test_the_secret_is_read_and_stays_the_same(api, other_owner):
    answer = api.get("/v1/webhooks/default/secret")

    assert answer["Cache-Control"] == "no-store"
    key = answer.json()["key"]
    assert key.startswith("whsec_")
    assert api.get("/v1/webhooks/default/secret").json() == {"key": key}
    assert other_owner.get("/v1/webhooks/default/secret").json() != {"key": key}


def test_a_rotation_gives_a_new_secret(api):
    key = api.get("/v1/webhooks/default/secret").json()["key"]

    rotated = api.post("/v1/webhooks/default/secret").json()["key"]

    assert rotated != key
    assert api.get("/v1/webhooks/default/secret").json() == {"key": rotated}


def test_a_key_that_may_only_read_sees_no_secret():
    reader = API(scopes=("jobs:read",))

    problem(reader.get("/v1/webhooks/default/secret"), 403, "permission_denied")
    problem(reader.post("/v1/webhooks/default/secret"), 403, "permission_denied")


# --- endpoints ------------------------------------------------------------------------------------
def test_endpoints_are_listed_with_their_state_and_waiting_deliveries(api, other_owner):
    soon = timezone.now() + timedelta(hours=1)
    job = make_job(owner=api.owner, status="succeeded")
    active = make_endpoint(owner=api.owner, url="https://a.example/")
    make_endpoint(owner=api.owner, url="https://b.example/", failures=6, paused_until=soon)
    webhooks.disable(make_endpoint(owner=api.owner, url="https://c.example/"), "Gone.")
    for status in ("pending", "dead", "dead", "delivered"):
        make_delivery(endpoint=active, job=job, status=status)

    listed = {row["url"]: row for row in api.get("/v1/webhooks").json()["results"]}

    states = {address: row["state"] for address, row in listed.items()}
    assert states == {
        "https://a.example/": "active",
        "https://b.example/": "paused",
        "https://c.example/": "disabled",
    }
    first = listed["https://a.example/"]
    assert (first["pending"], first["dead"]) == (1, 2)
    assert listed["https://b.example/"]["failures"] == 6
    assert listed["https://c.example/"]["disabled_reason"] == "Gone."
    assert other_owner.get("/v1/webhooks").json()["results"] == []


def test_a_list_of_endpoints_costs_the_same_for_many(api, django_assert_max_num_queries):
    for number in range(30):
        make_endpoint(owner=api.owner, url=f"https://a.example/{number}")

    with django_assert_max_num_queries(8):
        assert len(api.get("/v1/webhooks", {"limit": 25}).json()["results"]) == 25


def test_enabling_returns_the_new_state_of_the_endpoint(api):
    endpoint = webhooks.disable(make_endpoint(owner=api.owner, failures=9), "Gone.")
    make_delivery(endpoint=endpoint, status="dead")

    shown = api.post(f"/v1/webhooks/{endpoint.pk}/enable").json()

    assert (shown["state"], shown["failures"], shown["dead"]) == ("active", 0, 1)


# --- deliveries -----------------------------------------------------------------------------------
def test_deliveries_are_listed_newest_first_by_status_and_job(api):
    endpoint = make_endpoint(owner=api.owner)
    first = make_delivery(endpoint=endpoint, event="start", status="delivered", last_status=200)
    second = make_delivery(
        endpoint=endpoint, job=first.job, status="dead", last_error="It answered 500."
    )
    other = make_delivery(endpoint=endpoint, job=make_job(owner=api.owner, seed=2))

    def listed(**query) -> list[str]:
        return [row["id"] for row in api.get("/v1/webhooks/deliveries", query).json()["results"]]

    assert listed() == [str(other.pk), str(second.pk), str(first.pk)]
    assert listed(status="dead") == [str(second.pk)]
    assert listed(job=str(first.job_id)) == [str(second.pk), str(first.pk)]
    shown = api.get("/v1/webhooks/deliveries", {"status": "dead"}).json()["results"][0]
    assert shown["last_error"] == "It answered 500."
    assert shown["next_attempt_at"] is None
    assert shown["urls"]["job"].endswith(f"/v1/jobs/{first.job_id}")


def test_deliveries_are_listed_page_by_page(api):
    endpoint = make_endpoint(owner=api.owner)
    job = make_job(owner=api.owner, status="succeeded")
    ids = [str(make_delivery(endpoint=endpoint, job=job).pk) for _ in range(5)]

    seen, address = [], "/v1/webhooks/deliveries?limit=2"
    while address:
        page = api.get(address).json()
        seen += [row["id"] for row in page["results"]]
        address = page["next"]

    assert seen == ids[::-1]


def test_a_dead_delivery_is_replayed(api):
    delivery = make_delivery(
        endpoint=make_endpoint(owner=api.owner), status="dead", attempts=10, body="{}"
    )

    answer = api.post(f"/v1/webhooks/deliveries/{delivery.pk}/replay")

    assert answer.status_code == 200
    assert (answer.json()["status"], answer.json()["attempts"]) == ("pending", 0)
    delivery.refresh_from_db()
    assert (delivery.status, delivery.body) == ("pending", "{}")


def test_a_replay_to_a_disabled_endpoint_is_refused(api):
    endpoint = webhooks.disable(make_endpoint(owner=api.owner), "Gone.")
    delivery = make_delivery(endpoint=endpoint, status="dead")

    answer = api.post(f"/v1/webhooks/deliveries/{delivery.pk}/replay")

    problem(answer, 409, "webhook_disabled")


def test_webhooks_of_other_owners_are_not_found(api, other_owner):
    endpoint = webhooks.disable(make_endpoint(owner=api.owner), "Gone.")
    delivery = make_delivery(endpoint=endpoint, status="dead")

    assert other_owner.get("/v1/webhooks/deliveries").json()["results"] == []
    for path in (
        f"/v1/webhooks/{endpoint.pk}/enable",
        f"/v1/webhooks/deliveries/{delivery.pk}/replay",
        f"/v1/webhooks/{10**30}/enable",
        "/v1/webhooks/deliveries/00000000-0000-0000-0000-000000000000/replay",
    ):
        problem(other_owner.post(path), 404, "not_found")
    assert WebhookEndpoint.objects.get().disabled_at is not None
    assert Delivery.objects.get().status == "dead"


@pytest.mark.parametrize(
    ("path", "parameter"),
    [
        ("/v1/webhooks?state=active", "state"),
        ("/v1/webhooks/deliveries?status=lost", "status"),
        ("/v1/webhooks/deliveries?job=7", "job"),
        ("/v1/webhooks/deliveries?cursor=x", "cursor"),
        ("/v1/webhooks/default/secret?x=1", "x"),
    ],
)
def test_unknown_parameters_are_refused(api, path: str, parameter: str):
    refusal = problem(api.get(path), 400, "invalid_request")

    assert parameter in {error["parameter"] for error in refusal["errors"]}
