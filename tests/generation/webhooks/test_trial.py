"""Test events of webhooks."""

import json
import threading
from datetime import timedelta

import pytest
from django.db import connection, transaction
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from generation.jobs import erasure
from generation.models import Delivery, Job, WebhookEndpoint
from generation.webhooks import payload
from tests.client import API, problem
from tests.factories import make_endpoint, make_image, make_job, make_user
from tests.threads import in_threads
from tests.web import eventually

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_server")]


@pytest.fixture
def api() -> API:
    return API()


def test_a_test_event_is_the_latest_jobs_message_with_its_mark(api):
    endpoint = make_endpoint(owner=api.owner)
    make_job(owner=api.owner, webhook=endpoint)
    job = make_job(owner=api.owner, webhook=endpoint, status="succeeded")
    make_image(job=job)
    make_job(owner=api.owner, webhook=endpoint)  # it has no end to report yet
    (shown,) = api.get("/v1/webhooks").json()["results"]

    answer = api.post(shown["urls"]["test"])

    assert answer.status_code == 200, answer.content
    delivery = Delivery.objects.get()
    assert (answer.json()["id"], answer.json()["status"]) == (str(delivery.pk), "pending")
    body = json.loads(delivery.body)
    assert (body["is_test"], body["job"], body["type"]) == (
        True,
        str(job.id),
        "prediction.completed",
    )
    payload.render([delivery])
    assert json.loads(Delivery.objects.get().body) == body  # the sender sends it as it is
    assert "is_test" not in json.loads(payload.body_of(delivery))


def test_a_paused_webhook_is_tried_at_once_and_a_disabled_one_is_not(api):
    endpoint = make_endpoint(owner=api.owner)
    make_job(owner=api.owner, webhook=endpoint, status="succeeded")
    later = timezone.now() + timedelta(hours=1)
    WebhookEndpoint.objects.update(paused_until=later)
    assert api.post(f"/v1/webhooks/{endpoint.pk}/test").status_code == 200
    endpoint.refresh_from_db()
    assert endpoint.paused_until is None
    WebhookEndpoint.objects.update(disabled_at=timezone.now(), disabled_reason="It was gone.")
    problem(api.post(f"/v1/webhooks/{endpoint.pk}/test"), 409, "webhook_disabled")


def test_nothing_is_sent_without_a_job_or_to_a_webhook_of_another_owner(api):
    endpoint = make_endpoint(owner=api.owner)
    job = make_job(owner=api.owner, webhook=endpoint, status="succeeded", purged_at=timezone.now())
    problem(api.post(f"/v1/webhooks/{endpoint.pk}/test"), 400, "invalid_request")
    job.delete()
    make_job(owner=api.owner, webhook=endpoint)
    problem(api.post(f"/v1/webhooks/{endpoint.pk}/test"), 400, "invalid_request")
    other = make_endpoint(owner=make_user(username="stranger"))
    problem(api.post(f"/v1/webhooks/{other.pk}/test"), 404, "not_found")
    assert not Delivery.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_nothing_is_sent_about_a_job_that_is_being_deleted(api):
    endpoint = make_endpoint(owner=api.owner)
    job = make_job(owner=api.owner, webhook=endpoint, status="succeeded")
    answers: list = []

    def send() -> None:
        in_threads(lambda: answers.append(api.post(f"/v1/webhooks/{endpoint.pk}/test")), count=1)

    waiting = threading.Thread(target=send)
    with transaction.atomic():  # as `retention.purge` does
        Job.objects.select_for_update().get(id=job.id)
        waiting.start()
        eventually(is_any_session_waiting)
        Job.objects.filter(id=job.id).update(purged_at=timezone.now())
        erasure.erase([job.id])
    waiting.join()

    problem(answers[0], 400, "invalid_request")
    assert not Delivery.objects.exists()


def is_any_session_waiting() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM pg_locks WHERE NOT granted")
        return cursor.fetchone() is not None


def test_staff_send_a_test_from_the_page_of_a_webhook():
    admin = Client()
    admin.force_login(make_user(username="admin", is_superuser=True))
    endpoint = make_endpoint(owner=make_user())
    do = reverse("admin:generation_webhookendpoint_do", args=[endpoint.pk, "send_test"])
    assert (
        "The webhook has no ended job that is kept" in admin.post(do, follow=True).content.decode()
    )
    make_job(owner=make_user(), webhook=endpoint, status="succeeded")
    page = admin.post(do, follow=True)
    assert "A test event is being sent" in page.content.decode()
    assert page.redirect_chain[-1][0].endswith(f"/{Delivery.objects.get().pk}/change/")
