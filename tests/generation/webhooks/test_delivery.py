"""Delivery process: real rows, a real receiver, concurrent messages; slow receivers do not delay others."""

import threading
import time
from collections.abc import Iterator
from datetime import timedelta

import pytest
from django.db import OperationalError, connection
from django.utils import timezone
from standardwebhooks import WebhookVerificationError

from generation.infra import gauges, heartbeat, metrics
from generation.models import Delivery, WebhookEndpoint
from generation.webhooks import delivery as delivering
from generation.webhooks import endpoints as webhooks
from generation.webhooks import outbox, sender
from tests.factories import make_delivery, make_endpoint, make_job, make_user
from tests.receiver import Receiver, Reply

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def closed_network(settings):
    settings.WEBHOOK_PRIVATE_HOSTS = True


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def delivery(receiver) -> Delivery:
    return make_delivery(endpoint=make_endpoint(url=receiver.url))


def secret(delivery: Delivery) -> str:
    return webhooks.secret_of(delivery.owner_id).secret


def make_due(*deliveries: Delivery) -> None:
    ids = [delivery.pk for delivery in deliveries]
    Delivery.objects.filter(pk__in=ids).update(next_attempt_at=timezone.now())


# --- messages -------------------------------------------------------------------------------------
def test_a_receiver_can_verify_a_message_about_a_job(receiver, delivery):
    delivering.run()

    (got,) = receiver.got
    content = got.verified(secret(delivery))
    assert (content["type"], content["status"]) == ("prediction.completed", "succeeded")
    assert got.id == str(delivery.pk)
    delivery.refresh_from_db()
    assert (delivery.status, delivery.attempts, delivery.last_status) == ("delivered", 1, 204)
    assert delivery.body.encode() == got.body


def test_a_retry_has_the_same_id_and_the_same_bytes_and_a_new_time(receiver, delivery):
    receiver.reply = Reply(500)
    delivering.run()
    assert len(receiver.got) == 1  # the next one is not due yet
    receiver.reply = Reply(200)
    time.sleep(1.1)
    make_due(delivery)

    delivering.run()

    first, second = receiver.got
    assert (first.id, first.body) == (second.id, second.body)
    assert first.headers["webhook-timestamp"] != second.headers["webhook-timestamp"]
    assert first.verified(secret(delivery)) == second.verified(secret(delivery))


def test_during_a_rotation_receivers_can_verify_with_either_secret(receiver, delivery):
    old = secret(delivery)
    new = webhooks.rotate(delivery.owner_id).secret

    delivering.run()

    (got,) = receiver.got
    assert got.verified(old) == got.verified(new)


def test_a_day_after_a_rotation_the_old_secret_no_longer_signs(receiver, delivery):
    old = secret(delivery)
    webhooks.rotate(delivery.owner_id)
    yesterday = timezone.now() - timedelta(hours=25)
    delivery.owner.webhook_secret.__class__.objects.update(rotated_at=yesterday)

    delivering.run()

    (got,) = receiver.got
    assert got.verified(secret(delivery))
    with pytest.raises(WebhookVerificationError):
        got.verified(old)


def test_a_replay_is_sent_again_with_its_id(receiver, delivery):
    delivering.run()
    webhooks.replay(Delivery.objects.get(pk=delivery.pk))

    delivering.run()

    first, second = receiver.got
    assert (first.id, first.body) == (second.id, second.body)


# --- failures -------------------------------------------------------------------------------------
def test_a_private_address_is_refused_when_the_message_is_sent(receiver, delivery, settings):
    settings.WEBHOOK_PRIVATE_HOSTS = False

    delivering.run()

    delivery.refresh_from_db()
    assert (delivery.status, delivery.attempts) == ("pending", 1)
    assert "not public" in delivery.last_error
    assert receiver.got == []


def test_a_receiver_that_is_gone_gets_no_more_messages(receiver, delivery):
    receiver.reply = Reply(410)
    delivering.run()
    other = make_delivery(endpoint=delivery.endpoint)

    delivering.run()

    other.refresh_from_db()
    assert len(receiver.got) == 1
    assert other.status == "dead"


def test_a_receiver_that_sends_a_retry_after_is_paused(receiver):
    receiver.reply = Reply(429, {"Retry-After": "30"})
    endpoint = make_endpoint(url=receiver.url, failures=5)  # so that only one message is sent
    job = make_job(status="succeeded")
    for _ in range(5):
        make_delivery(endpoint=endpoint, job=job)

    delivering.run()
    delivering.run()

    assert len(receiver.got) == 1
    soonest = Delivery.objects.order_by("next_attempt_at").first()
    assert (soonest.next_attempt_at - timezone.now()).total_seconds() > 25


def test_the_circuit_opens_and_one_success_closes_it(receiver):
    receiver.reply = Reply(500)
    endpoint = make_endpoint(url=receiver.url)
    job = make_job(status="succeeded")
    many = [make_delivery(endpoint=endpoint, job=job) for _ in range(30)]
    delivering.run()
    tried = len(receiver.got)
    assert outbox.BREAKS_AT <= tried < 30
    delivering.run()
    assert len(receiver.got) == tried  # it is paused

    receiver.reply = Reply(200)
    WebhookEndpoint.objects.update(paused_until=timezone.now() - timedelta(seconds=1))
    make_due(*many)
    delivering.run()

    assert set(Delivery.objects.values_list("status", flat=True)) == {"delivered"}


def test_a_delivery_that_cannot_be_rendered_is_a_failed_attempt(receiver, delivery, monkeypatch):
    monkeypatch.setattr(delivering.payload, "body_of", lambda delivery: 1 / 0)

    delivering.run()

    delivery.refresh_from_db()
    assert (delivery.status, delivery.last_error) == ("pending", "It could not be rendered.")
    assert receiver.got == []


# --- concurrency ----------------------------------------------------------------------------------
@pytest.mark.slow
def test_slow_receivers_are_awaited_concurrently_and_do_not_delay_others(receiver, monkeypatch):
    monkeypatch.setattr(sender, "SECONDS", 3.0)
    job = make_job(status="succeeded")
    with Receiver() as slow:
        slow.reply = lambda got: time.sleep(4) or Reply()
        for number in range(20):
            owner = make_user(username=f"owner-{number}")
            make_delivery(endpoint=make_endpoint(owner=owner, url=slow.url), job=job)
        quick = make_endpoint(url=receiver.url)
        for _ in range(40):
            make_delivery(endpoint=quick, job=job)
        started = time.monotonic()

        delivering.run()

    assert time.monotonic() - started < 20
    waits = [
        (row.delivered_at - row.created_at).total_seconds()
        for row in Delivery.objects.filter(endpoint=quick)
    ]
    assert len(waits) == 40 and max(waits) < 3
    errors = Delivery.objects.exclude(endpoint=quick).values_list("last_error", flat=True)
    assert set(errors) == {"No response within 3 s."}


def test_a_notification_during_a_run_repeats_the_search_for_due_deliveries(receiver, monkeypatch):
    """A thread that finds a run in progress returns at once and leaves the work to it."""
    with Receiver() as slow:
        release = threading.Event()
        slow.reply = lambda got: release.wait(60) and Reply()
        make_delivery(endpoint=make_endpoint(url=slow.url))

        def run() -> None:
            delivering.run()
            connection.close()

        thread = threading.Thread(target=run)
        thread.start()
        while not slow.got:
            time.sleep(0.01)
        late = make_delivery(endpoint=make_endpoint(url=receiver.url))
        delivering.run()
        deadline = time.monotonic() + 30
        while not receiver.got and time.monotonic() < deadline:
            time.sleep(0.01)

        assert [got.id for got in receiver.got] == [str(late.pk)]
        release.set()
        thread.join()
    assert set(Delivery.objects.values_list("status", flat=True)) == {"delivered"}


def test_a_stopping_process_releases_deliveries_that_do_not_end_soon(monkeypatch):
    monkeypatch.setattr(delivering, "STOP_SECONDS", 0.2)
    with Receiver() as slow:
        slow.reply = lambda got: time.sleep(2) or Reply()
        delivery = make_delivery(endpoint=make_endpoint(url=slow.url))

        def stop() -> None:
            while not slow.got:
                time.sleep(0.01)
            heartbeat.stopping.set()

        thread = threading.Thread(target=stop)
        thread.start()
        try:
            delivering.run()
        finally:
            heartbeat.stopping.clear()
            thread.join()
    delivery.refresh_from_db()
    assert (delivery.status, delivery.attempts) == ("pending", 0)
    assert delivery.next_attempt_at <= timezone.now()


def test_many_deliveries_are_sent_quickly(receiver):
    endpoint = make_endpoint(url=receiver.url)
    job = make_job(status="succeeded")
    for _ in range(300):
        make_delivery(endpoint=endpoint, job=job)
    started = time.monotonic()

    delivering.run()

    assert len({got.id for got in receiver.got}) == 300 == len(receiver.got)
    assert time.monotonic() - started < 60


def test_an_unreachable_database_ends_the_run_and_the_next_run_sends(
    receiver, delivery, monkeypatch
):
    def away(ended):
        raise OperationalError("server closed the connection")

    with monkeypatch.context() as patch:
        patch.setattr(outbox, "note", away)
        delivering.run()
    delivery.refresh_from_db()
    assert (delivery.status, delivery.attempts) == ("pending", 1)
    make_due(delivery)  # the lease is over

    delivering.run()

    assert len({got.id for got in receiver.got}) == 1
    delivery.refresh_from_db()
    assert delivery.status == "delivered"


# --- metrics and heartbeat ------------------------------------------------------------------------
def test_outcomes_of_deliveries_are_counted(receiver, delivery, redis_server):
    receiver.reply = Reply(500)
    delivering.run()
    receiver.reply = Reply(200)
    make_due(delivery)
    delivering.run()
    make_delivery(endpoint=delivery.endpoint, status="dead")

    found = {family.name: family for family in (*metrics.recorded(), *gauges.collect())}

    counted = {s.labels["outcome"]: s.value for s in found["retort_webhooks"].samples}
    assert counted == {"failed": 1, "delivered": 1, "dead": 0}
    waiting = {s.labels["status"]: s.value for s in found["retort_webhook_deliveries"].samples}
    assert waiting == {"pending": 0, "dead": 1}
    count = next(s for s in found["retort_webhook_seconds"].samples if s.name.endswith("_count"))
    assert count.value == 1


def test_the_process_writes_its_heartbeat_and_delivers_at_once(monkeypatch):
    from generation.infra import notifications

    called = []
    monkeypatch.setattr(notifications, "deliver", lambda: called.append(1))

    delivering.begin()

    try:
        assert heartbeat.is_served("webhooks")
        assert called == [1]
    finally:
        heartbeat.end()
    assert not heartbeat.is_served("webhooks")
