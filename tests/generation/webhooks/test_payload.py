"""Payload of a delivery: a prediction with type and time, bounded, the same bytes at each attempt."""

import json
from datetime import timedelta

import pytest
from django.utils import timezone

from generation.models import Delivery, Job
from generation.webhooks import endpoints as webhooks
from generation.webhooks import payload, predictions
from tests.factories import make_delivery, make_endpoint, make_image, make_job

pytestmark = pytest.mark.django_db

BASE = "https://retort.example.org/"


def rendered(delivery: Delivery) -> dict:
    payload.render([Delivery.objects.get(pk=delivery.pk)])
    return json.loads(Delivery.objects.get(pk=delivery.pk).body)


def test_the_body_is_the_prediction_with_type_and_time_of_the_event():
    job = make_job(status="succeeded", base_url=BASE)
    image = make_image(job=job)
    delivery = make_delivery(job=job)

    body = rendered(delivery)

    expected = predictions.as_prediction(Job.objects.get(pk=job.pk), base_url=BASE)
    assert {name: body[name] for name in expected} == expected
    assert body["type"] == "prediction.completed"
    assert body["timestamp"] == delivery.created_at.isoformat().replace("+00:00", "Z")
    assert body["status"] == "succeeded"
    assert body["output"][0].startswith(f"{BASE}v1/images/{image.id}/file?")


def test_a_start_that_is_reported_late_describes_the_start():
    delivery = make_delivery(event="start")

    body = rendered(delivery)

    assert (body["type"], body["status"], body["output"]) == (
        "prediction.start",
        "processing",
        None,
    )


def test_a_body_is_rendered_once():
    delivery = make_delivery()
    first = rendered(delivery)
    Job.objects.filter(pk=delivery.job_id).update(status="failed", error_code="x")

    again = Delivery.objects.get(pk=delivery.pk)
    payload.render([again])

    assert json.loads(again.body) == first


def test_a_body_stays_under_the_limit_for_any_job():
    job = make_job(status="failed", error_detail="ü" * 30_000, base_url=BASE)
    many = make_job(status="succeeded", base_url=BASE, n=200, seed=2)
    image = make_image(job=many)
    for index in range(1, 200):
        image.pk, image.index = None, index
        image._state.adding = True
        image.id = type(image)().id
        image.save()

    for delivery in (make_delivery(job=job), make_delivery(job=many)):
        body = rendered(delivery)
        assert body["is_shortened"] is True
        assert body["output"] is None and body["urls"]["get"]
        size = len(Delivery.objects.get(pk=delivery.pk).body.encode())
        assert size < payload.MAX_BODY_BYTES


def test_a_delivery_that_cannot_be_rendered_does_not_affect_the_others(monkeypatch):
    good, bad = make_delivery(), make_delivery(job=make_job(status="succeeded", seed=2))
    as_prediction = predictions.as_prediction

    def breaks(job, **facts):
        if job.pk == bad.job_id:
            raise RuntimeError("a bug")
        return as_prediction(job, **facts)

    monkeypatch.setattr(predictions, "as_prediction", breaks)

    payload.render([bad, good])

    assert (bad.body, bool(good.body)) == ("", True)


def test_rendering_reads_no_embedding_and_no_manifest(django_assert_max_num_queries):
    for seed in range(5):
        make_delivery(job=make_job(status="succeeded", seed=seed))
    deliveries = list(Delivery.objects.all())

    with django_assert_max_num_queries(5) as queries:  # jobs, images, and one update in a savepoint
        payload.render(deliveries)

    read = " ".join(query["sql"] for query in queries.captured_queries)
    assert '"generation_embedding"."data"' not in read
    assert '"generation_release"."manifest",' not in read


def test_each_message_is_signed_with_the_secrets_of_its_owner():
    endpoint = make_endpoint()
    old = webhooks.secret_of(endpoint.owner_id).secret
    new = webhooks.rotate(endpoint.owner_id).secret
    delivery = make_delivery(endpoint=endpoint, body="{}")

    (message,) = payload.signed([delivery])

    assert (message.id, message.url, message.body) == (str(delivery.pk), endpoint.url, b"{}")
    assert message.secrets == [new, old]


def test_a_secret_is_created_for_an_owner_without_one():
    delivery = make_delivery(body="{}", created_at=timezone.now() - timedelta(days=1))

    (message,) = payload.signed([delivery])

    assert message.secrets == [webhooks.secret_of(delivery.owner_id).secret]
