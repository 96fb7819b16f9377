"""Erasure: after a purge nothing that the client wrote is readable, in any table or in Redis."""

import threading
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from django.apps import apps
from django.contrib.postgres.fields import ArrayField
from django.db import connection, models, transaction
from django.utils import timezone

from generation.catalogue.match_requests import Answer, Near
from generation.infra import events
from generation.infra.events import Event
from generation.jobs import erasure, idempotency, retention, submission
from generation.jobs import lifecycle as jobs
from generation.jobs.failures import Failure
from generation.jobs.job_request import JobRequest
from generation.models import Delivery, IdempotencyKey, Job, WebhookEndpoint
from generation.webhooks import endpoints as webhooks
from generation.webhooks import outbox, payload
from generation.webhooks.outbox import Shares
from generation.webhooks.sender import Answer as Response
from tests import fake_worker
from tests.client import API, problem
from tests.conftest import PERMANENT_TABLES
from tests.factories import (
    make_delivery,
    make_embedding,
    make_endpoint,
    make_job,
    make_release,
    make_user,
    make_worker,
)
from tests.generation.encoders import EncodeThread

pytestmark = pytest.mark.django_db(transaction=True)
WORD = "zebrafinch"  # in everything that the client of these tests writes


# --- decisions for every column ----------------------------------------------------------------------
# What purging does with each column that can hold a text: erased (client's words), digest (a client's name for the
# job), removed (with its row), kept (not written by the client of a job, or not words).
DECIDED: dict[str, dict[str, str]] = {
    "Job": dict.fromkeys(["asked_text", "base_url", "webhook_events"], "erased")
    | {"external_id": "digest"}
    | dict.fromkeys(
        ["via", "external_fingerprint", "output_format", "key", "status", "cache", "worker_name", "error_code",
         "error_detail"], "kept",
    ),
    "Image": dict.fromkeys(["key", "master", "file", "format", "sha256", "failing", "detector"], "removed"),
    # Made ahead, for no client. The job that gets a stocked image has an Image.
    "StockedImage": dict.fromkeys(["format", "file", "master", "image"], "kept"),
    "VariantImage": {"file": "kept"},
    "Delivery": dict.fromkeys(["event", "body", "status", "last_error", "attempt_log"], "removed"),
    "IdempotencyKey": {"key": "digest", "route": "kept", "fingerprint": "kept"},
    "WebhookEndpoint": dict.fromkeys(["url", "disabled_reason"], "removed"),
    "Attempt": dict.fromkeys(["worker_name", "outcome", "error_code", "error_detail", "error_class"], "kept"),
}  # fmt: skip
# Tables that clients do not write by requesting images: those of staff, workers and releases, keys and secrets.
NOT_WRITTEN_BY_CLIENTS = {
    "APIKey", "AuditEntry", "Coverage", "Embedding", "Favourite", "OwnerLimits", "OwnerUsage", "PromptVariant",
    "PurgedImage", "Quality", "Queue", "Release", "Usage", "WebhookSecret", "Worker",
}  # fmt: skip
TEXTS = (
    models.CharField,
    models.TextField,
    models.JSONField,
    models.BinaryField,
    ArrayField,
    models.FileField,
)


def test_every_text_column_has_a_decision_about_purges():
    found = {
        model.__name__: {f.name for f in model._meta.concrete_fields if isinstance(f, TEXTS)}
        for model in apps.get_app_config("generation").get_models()
    }
    assert set(found) == set(DECIDED) | NOT_WRITTEN_BY_CLIENTS, "decide about the new table"
    for name, columns in DECIDED.items():
        assert found[name] == set(columns), f"decide about the columns of {name}"


# --- everything is erased ----------------------------------------------------------------------------
def places() -> set[str]:
    """Return the tables in which the client's word is readable."""
    found = set()
    for table in set(connection.introspection.table_names()) - PERMANENT_TABLES:
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT count(*) FROM {table} t WHERE t::text ILIKE %s", [f"%{WORD}%"])
            if cursor.fetchone()[0]:
                found.add(table)
    return found


def readable(redis: Any) -> set[str]:
    """Return the keys of Redis in which the word is readable."""
    read = {
        "string": lambda name: redis.get(name),
        "list": lambda name: redis.lrange(name, 0, -1),
        "hash": lambda name: redis.hgetall(name),
        "set": lambda name: redis.smembers(name),
        "zset": lambda name: redis.zrange(name, 0, -1),
        "stream": lambda name: redis.xrange(name),
    }
    return {
        name for name in redis.scan_iter("*") if WORD in f"{name} {read[redis.type(name)](name)}"
    }


TEXT = f"a {WORD} vase"


@pytest.fixture
def api(settings) -> API:
    settings.ALLOWED_HOSTS = ["*"]
    make_release(has_encoder=True)
    make_worker(name="encode-1", queue="encode")
    return API()


@pytest.fixture
def submitted(api, redis_server) -> UUID:
    """The id of a job whose client used the word in every field and watched the previews."""
    variant = make_embedding().variant
    near = (Near(variant.pk, 0.99), Near(variant.pk, 0.5, f"“{WORD}” is no colour"))
    body = {"input": {"prompt": TEXT}, "webhook": f"https://example.org/{WORD}"}
    host = {"Host": f"{WORD}.example.org"}
    with EncodeThread({TEXT: Answer(near)}):
        answer = api.put(f"/v1/predictions/id-{WORD}", body, headers=host)
    assert answer.status_code == 202, answer.content
    job_id = UUID(answer.json()["job"])
    job = Job.objects.get(id=job_id)
    assert (job.asked_text, job.external_id) == (TEXT, f"id-{WORD}") and WORD in job.base_url
    IdempotencyKey.objects.create(owner=api.owner, route="x", key=f"key-{WORD}", job=job)
    events.watch(job_id, previews=True)
    return job_id


def preview(job_id: UUID) -> None:
    events.write([Event(job_id, "preview", {"b64_json": f"picture of a {WORD}"})])


STREAMED = {"generation_job", "generation_webhookendpoint", "generation_idempotencykey"}


@pytest.mark.parametrize("state", ["queued", "running", "failed", "succeeded", "delivered"])
def test_after_delete_nothing_that_the_client_wrote_is_readable(
    api, submitted, redis_server, state
):
    taken = [] if state == "queued" else jobs.claim("w").jobs
    preview(submitted)
    if state == "failed":
        jobs.settle(
            jobs.Claim.of(taken[0]), "failed", Failure("not_finite", "No.", retryable=False)
        )
    elif state in ("succeeded", "delivered"):
        assert fake_worker.finish(taken) == []
    deliveries, _ = outbox.take(Shares())
    payload.render(deliveries)
    if state == "delivered":
        outbox.note([(delivery, Response(500, f"It answered {WORD}")) for delivery in deliveries])
    assert places() >= STREAMED and len(readable(redis_server)) >= 2

    assert api.delete(f"/v1/jobs/{submitted}").status_code == 204

    assert (places(), readable(redis_server)) == (set(), set())
    assert not Delivery.objects.exists() and not WebhookEndpoint.objects.exists()


def test_a_worker_that_still_publishes_previews_leaves_none(api, submitted, redis_server):
    jobs.claim("w")
    api.delete(f"/v1/jobs/{submitted}")
    preview(submitted)
    assert readable(redis_server) == set()


def test_after_retention_nothing_that_the_client_wrote_is_readable(
    api, submitted, redis_server, settings
):
    settings.RETENTION_DAYS = 1
    fake_worker.make_pictures()
    retention.sweep(now=timezone.now() + timedelta(days=2))
    assert (places(), readable(redis_server)) == (set(), set())


def test_words_that_earlier_code_left_in_purged_jobs_are_erased_by_the_sweep(
    api, submitted, redis_server
):
    fake_worker.make_pictures()
    Job.objects.update(purged_at=timezone.now())
    retention.sweep()
    assert places() == set() and erasure.leftovers() == []


def test_what_other_jobs_need_is_kept(api, submitted):
    endpoint = WebhookEndpoint.objects.get()
    other = make_job(
        owner=api.owner, webhook=endpoint, asked_text="another text", external_id="other"
    )
    delivery = make_delivery(endpoint=endpoint, job=other)
    api.delete(f"/v1/jobs/{submitted}")
    other.refresh_from_db()
    assert (other.webhook, other.asked_text, other.external_id) == (
        endpoint,
        "another text",
        "other",
    )
    assert [row.pk for row in Delivery.objects.all()] == [delivery.pk]


# --- what still works afterwards ---------------------------------------------------------------------
def test_a_deleted_jobs_id_and_idempotency_key_still_make_no_second_job(api, submitted):
    api.delete(f"/v1/jobs/{submitted}")
    body = {"input": {"prompt": TEXT}, "webhook": f"https://example.org/{WORD}"}
    again = api.put(f"/v1/predictions/id-{WORD}", body)
    assert again.json()["data_removed"] is True and Job.objects.count() == 1
    assert WORD not in str(again.json() | {"id": "", "urls": ""})
    other = api.put(f"/v1/predictions/id-{WORD}", body | {"webhook": "https://example.org/"})
    problem(other, 422, "idempotency_key_reused")
    job = Job.objects.get()
    key = f"key-{WORD}"
    IdempotencyKey.objects.update(fingerprint=idempotency.fingerprint({"a": 1}))
    assert idempotency.once(api.owner, "x", key=key, body={"a": 1}, make=pytest.fail) == job


def test_a_client_id_or_key_reused_after_a_purge_is_erased_too(api, submitted):
    """Earlier code allowed clients to do so."""
    api.delete(f"/v1/jobs/{submitted}")
    second = make_job(owner=api.owner, external_id=f"id-{WORD}")
    IdempotencyKey.objects.create(owner=api.owner, route="x", key=f"key-{WORD}", job=second)
    assert api.delete(f"/v1/jobs/{second.id}").status_code == 204
    assert places() == set()


def test_a_delivery_whose_job_is_deleted_while_it_is_sent_is_recorded_without_an_error(
    api, submitted
):
    fake_worker.make_pictures()
    deliveries, _ = outbox.take(Shares())
    api.delete(f"/v1/jobs/{submitted}")
    outbox.note([(delivery, Response(200)) for delivery in deliveries])
    payload.render(deliveries)
    assert deliveries and places() == set()


def test_a_job_submitted_while_its_webhook_is_deleted_keeps_a_webhook(monkeypatch):
    make_embedding(encoder_fingerprint=make_release().encoder_fingerprint)
    endpoint = webhooks.endpoint
    submitted = JobRequest(variant="red-glass-vase", webhook="https://example.org/hook")

    def delete_before_use(*arguments: Any) -> WebhookEndpoint:
        found = endpoint(*arguments)
        monkeypatch.setattr(webhooks, "endpoint", endpoint)
        assert webhooks.forget_unused() == 1
        return found

    monkeypatch.setattr(webhooks, "endpoint", delete_before_use)
    job = submission.submit(make_user(), submitted)
    assert Job.objects.get(id=job.id).webhook.url == "https://example.org/hook"


def test_a_webhook_is_not_deleted_while_a_job_with_it_is_being_inserted():
    make_embedding(encoder_fingerprint=make_release().encoder_fingerprint)
    submitted = JobRequest(variant="red-glass-vase", webhook="https://example.org/hook")
    deletion = threading.Thread(target=lambda: (webhooks.forget_unused(), connection.close()))
    owner = make_user()
    make_endpoint(owner=owner, url=submitted.webhook)
    with transaction.atomic():
        submission.submit(owner, submitted)
        deletion.start()
        deletion.join(0.5)
        assert deletion.is_alive()  # it waits for the job
    deletion.join(60)
    assert Job.objects.get().webhook == WebhookEndpoint.objects.get()
