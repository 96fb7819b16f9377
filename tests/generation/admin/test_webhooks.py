"""Admin of webhooks through its real pages: states, deliveries with their attempts and payloads, sending by hand."""

from datetime import timedelta

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client
from django.utils import timezone

from generation.models import Delivery, WebhookEndpoint
from generation.webhooks import endpoints as webhooks
from generation.webhooks import outbox
from tests.factories import make_delivery, make_endpoint, make_job, make_user
from tests.generation.admin.test_admin import run_action, run_list_action, staff, url

pytestmark = pytest.mark.django_db


@pytest.fixture
def admin() -> Client:
    client = Client()
    client.force_login(make_user(username="admin", is_superuser=True))
    return client


# --- endpoints ------------------------------------------------------------------------------------
def test_endpoints_are_listed_and_filtered_by_state(admin):
    soon = timezone.now() + timedelta(hours=1)
    make_endpoint(url="https://active.example/")
    make_endpoint(url="https://paused.example/", paused_until=soon, failures=5)
    webhooks.disable(make_endpoint(url="https://disabled.example/"), "Gone.")

    for state in ("active", "paused", "disabled"):
        page = admin.get(url("webhookendpoint", "changelist"), {"state": state}).content.decode()
        shown = {word for word in ("active", "paused", "disabled") if f"https://{word}." in page}
        assert shown == {state}


def test_an_endpoint_whose_deliveries_fail_is_not_shown_as_healthy(admin):
    def badge() -> str:
        page = admin.get(url("webhookendpoint", "changelist")).content.decode()
        return "failing" if "2 attempts in a row failed." in page else "active"

    endpoint = make_endpoint(failures=2)
    assert badge() == "failing"
    WebhookEndpoint.objects.filter(pk=endpoint.pk).update(failures=0)
    assert badge() == "active"


def test_disabling_and_enabling_an_endpoint_is_recorded(admin):
    endpoint = make_endpoint(failures=3)

    run_action(admin, endpoint, "disable")
    endpoint.refresh_from_db()
    assert (endpoint.state, endpoint.disabled_reason) == (
        "disabled",
        "It was disabled by an operator.",
    )
    run_action(admin, endpoint, "enable")
    endpoint.refresh_from_db()
    assert (endpoint.state, endpoint.failures) == ("active", 0)

    messages = LogEntry.objects.order_by("pk").values_list("change_message", flat=True)
    assert ["Disabled" in messages[0], "Enabled" in messages[1]] == [True, True]


def test_the_page_of_an_endpoint_links_to_its_deliveries(admin):
    endpoint = make_endpoint(url="https://a.example/")
    make_delivery(endpoint=endpoint, status="dead")
    make_delivery(endpoint=make_endpoint(url="https://b.example/"), job=make_job(seed=2))

    page = admin.get(url("webhookendpoint", "change", endpoint.pk)).content.decode()
    assert "0 pending, 1 dead" in page
    query = {"endpoint__id__exact": endpoint.pk}
    listed = admin.get(url("delivery", "changelist"), query).content.decode()

    assert "https://a.example/" in listed and "https://b.example/" not in listed


def test_the_page_of_an_endpoint_shows_its_latest_deliveries_with_their_attempts(admin):
    endpoint = make_endpoint(url="https://a.example/")
    now = timezone.now()
    failed = make_delivery(
        endpoint=endpoint,
        attempts=2,
        next_attempt_at=now + timedelta(hours=1),
        attempt_log=[
            {"at": (now - timedelta(hours=2)).isoformat(), "status": 500, "error": "It was 500."},
            {"at": (now - timedelta(hours=1)).isoformat(), "status": None, "error": "No answer."},
        ],
    )
    delivered = make_delivery(
        endpoint=endpoint,
        job=failed.job,
        status="delivered",
        attempt_log=[{"at": now.isoformat(), "status": 204, "error": ""}],
    )
    make_delivery(endpoint=make_endpoint(url="https://b.example/"), job=make_job(seed=2))

    answer = admin.get(url("webhookendpoint", "change", endpoint.pk))
    page = answer.content.decode()
    shown = answer.context["deliveries"]
    assert [one["row"].pk for one in shown] == [delivered.pk, failed.pk]
    assert page.index("It was 500.") < page.index("No answer.")
    assert ">204<" in page
    assert (now + timedelta(hours=1)).isoformat() in shown[1]["next"]
    assert page.count("Send now:") == 1 and url("delivery", "do", failed.pk, "send_now") in page
    page = admin.get(url("delivery", "change", failed.pk)).content.decode()
    assert "It was 500." in page and "No answer." in page


def test_only_staff_that_may_change_deliveries_gets_the_button_to_send_them():
    delivery = make_delivery(status="dead")
    page = url("webhookendpoint", "change", delivery.endpoint_id)
    assert "Send now" not in (
        staff("view_webhookendpoint", "view_delivery").get(page).content.decode()
    )
    assert "Latest deliveries" not in staff("view_webhookendpoint").get(page).content.decode()


# --- deliveries -----------------------------------------------------------------------------------
def test_dead_letters_are_found_and_sent_again_together(admin):
    job = make_job(status="succeeded")
    dead = [make_delivery(job=job, status="dead", attempts=10) for _ in range(3)]
    make_delivery(job=job, status="delivered", last_status=200)

    listed = admin.get(url("delivery", "changelist"), {"status__exact": "dead"})
    assert listed.context["cl"].result_count == 3
    answer = run_list_action(admin, "delivery", "send_now", *dead)

    assert "3 will be sent now" in answer.content.decode()
    assert Delivery.objects.filter(status="pending", attempts=0).count() == 3


def test_a_delivery_is_sent_again_from_its_page_which_shows_the_payload(admin):
    delivery = make_delivery(
        status="dead", body='{"type":"prediction.completed"}', last_error="It answered 500."
    )

    page = admin.get(url("delivery", "change", delivery.pk)).content.decode()
    assert "prediction.completed" in page and "It answered 500." in page
    run_action(admin, delivery, "send_now")

    delivery.refresh_from_db()
    assert delivery.status == "pending"


def test_a_waiting_delivery_is_sent_now_and_one_in_progress_is_left(admin):
    later = timezone.now() + timedelta(hours=1)
    waiting = make_delivery(attempts=2, next_attempt_at=later)
    soon = timezone.now() + timedelta(seconds=outbox.LEASE_SECONDS)
    leased = make_delivery(job=waiting.job, event="output", attempts=1, next_attempt_at=soon)

    answer = run_list_action(admin, "delivery", "send_now", waiting, leased)

    assert "1 will be sent now" in answer.content.decode()
    assert "1 not changed: being sent" in answer.content.decode()
    for delivery in (waiting, leased):
        delivery.refresh_from_db()
    assert (waiting.attempts, leased.next_attempt_at) == (2, soon)
    assert waiting.next_attempt_at <= timezone.now()
    assert [str(entry.object_id) for entry in LogEntry.objects.all()] == [str(waiting.pk)]


def test_deliveries_that_cannot_be_sent_are_reported_once_with_the_reason(admin):
    endpoint = webhooks.disable(make_endpoint(), "The response was 410 Gone.")
    dead = [make_delivery(endpoint=endpoint, status="dead") for _ in range(2)]

    page = run_list_action(admin, "delivery", "send_now", *dead).content.decode()

    assert "2 not sent: The webhook is disabled: The response was 410 Gone." in page


def test_staff_without_the_permission_can_only_view():
    endpoint = make_endpoint()
    delivery = make_delivery(endpoint=endpoint, status="dead")
    viewer = staff("view_delivery", "view_webhookendpoint")

    assert viewer.get(url("delivery", "change", delivery.pk)).status_code == 200
    assert run_action(viewer, delivery, "send_now").status_code == 403
    assert run_action(viewer, endpoint, "disable").status_code == 403
    delivery.refresh_from_db()
    assert delivery.status == "dead"


def test_endpoints_and_deliveries_cannot_be_edited_added_or_deleted(admin):
    delivery = make_delivery()

    for model, pk in (("delivery", delivery.pk), ("webhookendpoint", delivery.endpoint_id)):
        assert admin.get(url(model, "add")).status_code == 403
        assert (
            admin.post(url(model, "change", pk), {"url": "https://x.example/"}).status_code == 403
        )
        assert admin.post(url(model, "delete", pk), {"post": "yes"}).status_code == 403


def test_no_page_shows_a_secret(admin):
    delivery = make_delivery()
    secret = webhooks.secret_of(delivery.owner_id).secret

    for path in (
        url("delivery", "changelist"),
        url("delivery", "change", delivery.pk),
        url("webhookendpoint", "change", delivery.endpoint_id),
    ):
        assert secret not in admin.get(path).content.decode()
