"""DELETE of a job over HTTP: what is deleted, for whom, and the responses afterwards."""

from uuid import uuid4

import pytest
from django.test import Client

from generation.jobs import idempotency
from generation.models import APIKey, Job
from tests.client import API, problem
from tests.factories import (
    make_embedding,
    make_image,
    make_job,
    make_release,
    make_user,
    make_variant,
)

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_server")]


def test_a_deleted_job_is_gone_with_its_images_permanently():
    api = API()
    job = make_job(owner=api.owner, status="succeeded")
    image = make_image(job=job)
    shown = api.get(f"/v1/jobs/{job.id}").json()["images"][0]

    first, again = api.delete(f"/v1/jobs/{job.id}"), api.delete(f"/v1/jobs/{job.id}")

    assert [(answer.status_code, answer.content) for answer in (first, again)] == [(204, b"")] * 2
    gone = problem(api.get(f"/v1/jobs/{job.id}"), 410, "job_purged")
    assert gone["retryable"] is False
    problem(api.get(f"/v1/jobs/{job.id}?wait=1"), 410, "job_purged")
    problem(api.post(f"/v1/jobs/{job.id}/cancel"), 410, "job_purged")
    problem(api.get(f"/v1/jobs/{job.id}/events"), 410, "job_purged")
    problem(api.get(f"/v1/images/{image.id}"), 410, "job_purged")
    for name in ("url", "thumbnail_url"):
        problem(Client().get(shown[name]), 410, "job_purged")
    assert api.get("/v1/jobs").json()["results"] == []


def test_deleting_a_job_invalidates_the_clients_etag():
    api = API()
    job = make_job(owner=api.owner, status="succeeded")
    etag = api.get(f"/v1/jobs/{job.id}")["ETag"]
    api.delete(f"/v1/jobs/{job.id}")

    again = api.get(f"/v1/jobs/{job.id}", headers={"If-None-Match": etag})

    problem(again, 410, "job_purged")


@pytest.mark.parametrize("status", ["queued", "running"])
def test_a_job_that_has_not_ended_is_canceled(status: str):
    api = API()
    job = make_job(owner=api.owner, status=status)

    assert api.delete(f"/v1/jobs/{job.id}").status_code == 204

    job.refresh_from_db()
    assert (job.status, job.error_code) == ("canceled", "canceled_by_client")


def test_jobs_of_other_owners_and_missing_jobs_cannot_be_deleted():
    job = make_job(owner=make_user(username="somebody"), status="succeeded")
    api = API(owner=make_user(username="else"))

    problem(api.delete(f"/v1/jobs/{job.id}"), 404, "not_found")
    problem(api.delete(f"/v1/jobs/{uuid4()}"), 404, "not_found")
    job.refresh_from_db()
    assert job.purged_at is None


def test_a_key_without_the_write_scope_cannot_delete():
    api = API(scopes=[APIKey.Scope.JOBS_READ])
    job = make_job(owner=api.owner, status="succeeded")

    problem(api.delete(f"/v1/jobs/{job.id}"), 403, "permission_denied")
    problem(API(owner=api.owner).delete(f"/v1/jobs/{job.id}?now=1"), 400, "invalid_request")
    assert not Job.objects.filter(purged_at__isnull=False).exists()


def test_a_repeated_body_is_not_answered_with_a_deleted_job():
    api = API()
    job = make_job(owner=api.owner, status="succeeded")
    idempotency.remember_body(api.owner, "openai", {"prompt": "a vase"}, job)
    api.delete(f"/v1/jobs/{job.id}")

    assert idempotency.by_body(api.owner, "openai", {"prompt": "a vase"}, seconds=60) is None


def test_an_idempotency_key_of_a_deleted_job_creates_no_other_job():
    make_release()
    make_embedding(variant=make_variant(slug="red-vase", text="a red vase"))
    api = API()

    def post(key: str):
        return api.post("/v1/jobs", {"variant": "red-vase"}, headers={"Idempotency-Key": key})

    api.delete(f"/v1/jobs/{post('order-1').json()['id']}")

    problem(post("order-1"), 410, "job_purged")
    assert post("order-2").status_code == 202


def test_metadata_is_requested_by_a_boolean_and_shown_in_the_job():
    make_release()
    make_embedding(variant=make_variant(slug="red-vase", text="a red vase"))
    api = API()

    with_metadata = api.post("/v1/jobs", {"variant": "red-vase", "metadata": True}).json()
    plain = api.post("/v1/jobs", {"variant": "red-vase"}).json()

    assert (with_metadata["metadata"], plain["metadata"]) == (True, False)
    assert Job.objects.get(id=with_metadata["id"]).has_metadata
    problem(api.post("/v1/jobs", {"variant": "red-vase", "metadata": None}), 400, "invalid_request")
    problem(api.post("/v1/jobs", {"variant": "red-vase", "metadata": "x"}), 400, "invalid_request")


def test_the_encoding_time_of_the_files_is_shown_in_the_job():
    api = API()
    job = make_job(owner=api.owner, status="succeeded", encode_seconds=0.0123456)

    assert api.get(f"/v1/jobs/{job.id}").json()["metrics"]["encode_seconds"] == 0.0123
