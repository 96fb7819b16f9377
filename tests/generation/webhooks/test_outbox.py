"""Outbox: claiming of deliveries, retry schedule, pauses, endpoints that are disabled."""

import threading
from collections import Counter
from datetime import datetime, timedelta

import pytest
from django.db import connection, transaction
from django.utils import timezone

from generation.errors import WebhookDisabled
from generation.models import Delivery
from generation.webhooks import endpoints, outbox
from generation.webhooks.outbox import Shares, note, take
from generation.webhooks.sender import Answer
from tests import clocks
from tests.factories import make_delivery, make_endpoint, make_job, make_user

pytestmark = pytest.mark.django_db(transaction=True)

GOOD = Answer(200)
BAD = Answer(500, "It answered 500.")


@pytest.fixture(autouse=True)
def no_jitter(monkeypatch):
    monkeypatch.setattr(outbox, "JITTER", 0)


def make_due(delivery: Delivery) -> None:
    Delivery.objects.filter(pk=delivery.pk).update(next_attempt_at=timezone.now())


def tried(delivery: Delivery, answer: Answer) -> Delivery:
    """Return the delivery after one more attempt with this answer, even if it is not due."""
    make_due(delivery)
    taken, _ = take(Shares())
    assert [row.pk for row in taken] == [delivery.pk]
    note([(taken[0], answer)])
    delivery.refresh_from_db()
    return delivery


def wait(delivery: Delivery) -> float:
    """Return the seconds until the next attempt."""
    return (delivery.next_attempt_at - timezone.now()).total_seconds()


# --- claims ---------------------------------------------------------------------------------------
def test_due_deliveries_are_claimed_once_with_a_lease():
    due = make_delivery()
    make_delivery(next_attempt_at=timezone.now() + timedelta(seconds=60))
    make_delivery(status="delivered")

    (taken,), has_more = take(Shares())

    assert (taken.pk, taken.attempts, has_more) == (due.pk, 1, False)
    assert outbox.LEASE_SECONDS - 5 < wait(taken) <= outbox.LEASE_SECONDS
    assert take(Shares()) == ([], False)


def test_a_message_of_a_host_whose_clock_is_ahead_is_due_at_once(monkeypatch):
    job = make_job(
        webhook=make_endpoint(owner=make_user()), webhook_events=["completed"], status="failed"
    )
    with monkeypatch.context() as patch:
        clocks.shift(patch, timedelta(hours=1))
        assert endpoints.ended(job)

    assert [row.job_id for row in take(Shares())[0]] == [job.id]


def test_deliveries_of_a_killed_process_are_due_again_when_their_lease_is_over():
    delivery = make_delivery()
    (held,), _ = take(Shares())
    make_due(delivery)  # the lease is over

    (again,), _ = take(Shares())

    assert (again.pk, again.attempts) == (delivery.pk, 2)
    note([(held, GOOD)])  # the first holder returns late and has lost its claim
    delivery.refresh_from_db()
    assert delivery.status == "pending"


def test_one_endpoint_gets_no_more_than_its_share(monkeypatch):
    monkeypatch.setattr(outbox, "IN_FLIGHT_OF_ENDPOINT", 2)
    job = make_job(status="succeeded")
    slow = make_endpoint(url="https://slow.example/")
    for _ in range(5):
        make_delivery(endpoint=slow, job=job)
    other = make_delivery(endpoint=make_endpoint(url="https://other.example/"), job=job)

    shares = Shares()
    taken, _ = take(shares)

    assert Counter(row.endpoint_id for row in taken) == {slow.pk: 2, other.endpoint_id: 1}
    assert take(shares)[0] == []
    shares.end(next(row for row in taken if row.endpoint_id == slow.pk))
    assert len(take(shares)[0]) == 1


def test_an_owner_with_many_endpoints_leaves_room_for_others(monkeypatch):
    monkeypatch.setattr(outbox, "IN_FLIGHT_OF_OWNER", 3)
    many, few = make_user(), make_user(username="few")
    job = make_job(status="succeeded")
    for number in range(6):
        make_delivery(
            endpoint=make_endpoint(owner=many, url=f"https://a.example/{number}"), job=job
        )
    make_delivery(endpoint=make_endpoint(owner=few), job=job)

    taken, _ = take(Shares())

    assert Counter(row.owner_id for row in taken) == {many.pk: 3, few.pk: 1}


def test_a_long_queue_of_a_busy_endpoint_does_not_block_others(monkeypatch):
    monkeypatch.setattr(outbox, "WINDOW", 4)
    monkeypatch.setattr(outbox, "IN_FLIGHT_OF_ENDPOINT", 1)
    job = make_job(status="succeeded")
    for _ in range(20):
        make_delivery(endpoint=make_endpoint(url="https://busy.example/"), job=job)
    last = make_delivery(endpoint=make_endpoint(url="https://other.example/"), job=job)

    shares, found, has_more = Shares(), [], True
    while has_more:
        taken, has_more = take(shares)
        found += taken

    assert len(found) == 2 and found[-1].pk == last.pk


def test_no_more_deliveries_are_claimed_than_may_be_in_flight(monkeypatch):
    monkeypatch.setattr(outbox, "IN_FLIGHT", 3)
    for number in range(5):
        make_delivery(
            endpoint=make_endpoint(url=f"https://a.example/{number}"),
            job=make_job(status="succeeded"),
        )

    shares = Shares()
    taken, has_more = take(shares)

    assert (len(taken), shares.free(), has_more) == (3, 0, False)


def test_two_processes_never_claim_the_same_delivery_and_do_not_wait_for_each_other():
    make_delivery()
    found: list[list[Delivery]] = []

    def other() -> None:
        found.append(take(Shares())[0])
        connection.close()

    with transaction.atomic():
        ours, _ = take(Shares())
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(60)
        assert found == [[]]
    assert len(ours) == 1


def test_an_interrupted_sending_counts_as_no_attempt():
    delivery = make_delivery()
    taken, _ = take(Shares())

    outbox.give_back(taken)

    delivery.refresh_from_db()
    assert (delivery.attempts, delivery.status) == (0, "pending")
    assert len(take(Shares())[0]) == 1


# --- attempts -------------------------------------------------------------------------------------
def test_a_delivery_is_tried_ten_times_with_growing_pauses_then_given_up(monkeypatch):
    monkeypatch.setattr(outbox, "BREAKS_AT", 100)
    delivery = make_delivery()
    pauses = []

    for _ in range(9):
        began = timezone.now()
        tried(delivery, BAD)
        pauses.append((delivery.next_attempt_at - began).total_seconds())
        assert delivery.status == "pending"
    tried(delivery, BAD)

    minute, hour = 60, 3600
    wanted = [
        5, 5 * minute, 30 * minute, 2 * hour, 5 * hour, 10 * hour, 14 * hour, 20 * hour, 24 * hour
    ]  # fmt: skip
    assert all(0 <= pause - seconds < minute for pause, seconds in zip(pauses, wanted, strict=True))
    assert (delivery.status, delivery.attempts) == ("dead", 10)
    assert (delivery.last_status, delivery.last_error) == (500, "It answered 500.")


def test_pauses_have_jitter(monkeypatch):
    monkeypatch.setattr(outbox, "JITTER", 0.2)
    job = make_job(status="succeeded")
    waits = set()
    for number in range(8):
        endpoint = make_endpoint(url=f"https://a.example/{number}")
        began = timezone.now()
        delivery = tried(make_delivery(endpoint=endpoint, job=job), BAD)
        waits.add(round((delivery.next_attempt_at - began).total_seconds(), 1))

    assert len(waits) > 1
    assert all(5 <= seconds < 60 for seconds in waits)


def test_a_success_ends_a_delivery():
    delivery = tried(make_delivery(), Answer(204))

    assert (delivery.status, delivery.last_status, delivery.last_error) == ("delivered", 204, "")
    assert delivery.delivered_at is not None


@pytest.mark.parametrize("status", [429, 503, 500])
def test_a_retry_after_is_obeyed(status: int):
    delivery = tried(make_delivery(), Answer(status, "x", retry_after=120))

    assert 118 < wait(delivery) < 121


def test_a_retry_after_is_obeyed_for_a_day_at_most():
    assert wait(tried(make_delivery(), Answer(503, "x", retry_after=1e9))) < 86401


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_an_endpoint_that_throttles_is_paused(status: int):
    endpoint = make_endpoint()
    first, second = make_delivery(endpoint=endpoint), make_delivery(endpoint=endpoint)
    (one, _other), _ = take(Shares())
    Delivery.objects.filter(pk=second.pk).update(attempts=0)
    make_due(second)

    note([(one, Answer(status, "x", retry_after=60))])

    assert take(Shares())[0] == []
    second.refresh_from_db()
    assert 55 < wait(second) < 61
    assert second.attempts == 0
    endpoint.refresh_from_db()
    assert endpoint.state == "paused"
    assert first.endpoint == endpoint


# --- endpoints ------------------------------------------------------------------------------------
def test_after_failures_in_a_row_an_endpoint_pauses_longer_and_longer():
    delivery = make_delivery()
    endpoint = delivery.endpoint
    pauses = []

    for _ in range(9):
        tried(delivery, BAD)
        endpoint.refresh_from_db()
        until = endpoint.paused_until
        pauses.append(round((until - timezone.now()).total_seconds()) if until else 0)
        endpoint.paused_until = None  # the pause is over
        endpoint.save()

    assert pauses == [0, 0, 0, 0, 30, 60, 120, 240, 480]


def test_a_pause_is_an_hour_at_most():
    delivery = make_delivery(endpoint=make_endpoint(failures=60))

    tried(delivery, BAD)

    delivery.endpoint.refresh_from_db()
    assert (delivery.endpoint.paused_until - timezone.now()).total_seconds() < 3601


def test_deliveries_of_a_paused_endpoint_wait_without_attempts_and_do_not_delay_others(monkeypatch):
    monkeypatch.setattr(outbox, "WINDOW", 3)
    until = timezone.now() + timedelta(seconds=40)
    paused = make_endpoint(url="https://paused.example/", failures=5, paused_until=until)
    job = make_job(status="succeeded")
    waiting = [make_delivery(endpoint=paused, job=job) for _ in range(7)]
    other = make_delivery(endpoint=make_endpoint(), job=job)

    shares, found, has_more = Shares(), [], True
    while has_more:
        taken, has_more = take(shares)
        found += taken

    assert [row.pk for row in found] == [other.pk]
    for row in waiting:
        row.refresh_from_db()
        assert (row.attempts, row.next_attempt_at) == (0, until)


def test_after_a_pause_one_message_is_tried_and_its_success_releases_the_others():
    over = timezone.now() - timedelta(seconds=1)
    endpoint = make_endpoint(failures=6, failing_since=over, paused_until=over)
    job = make_job(status="succeeded")
    for _ in range(5):
        make_delivery(endpoint=endpoint, job=job)
    shares = Shares()

    (probe,), _ = take(shares)
    assert take(shares)[0] == []
    note([(probe, GOOD)])
    shares.end(probe)

    assert len(take(shares)[0]) == 4
    endpoint.refresh_from_db()
    assert (endpoint.failures, endpoint.failing_since, endpoint.state) == (0, None, "active")
    assert endpoint.last_success_at is not None


def test_many_concurrent_failures_count_as_one():
    endpoint = make_endpoint()
    job = make_job(status="succeeded")
    for _ in range(16):
        make_delivery(endpoint=endpoint, job=job)
    taken, _ = take(Shares())
    assert len(taken) == 16

    note([(delivery, BAD) for delivery in taken])

    endpoint.refresh_from_db()
    assert endpoint.failures == outbox.BREAKS_AT
    assert (endpoint.paused_until - timezone.now()).total_seconds() < 31


def test_an_endpoint_that_is_gone_is_disabled_and_its_deliveries_are_given_up():
    endpoint = make_endpoint()
    gone = make_delivery(endpoint=endpoint)
    waiting = make_delivery(
        endpoint=endpoint, next_attempt_at=timezone.now() + timedelta(seconds=60)
    )

    tried(gone, Answer(410, "The response was 410."))

    endpoint.refresh_from_db()
    assert (gone.status, endpoint.state) == ("dead", "disabled")
    assert endpoint.disabled_reason == "The response was 410 Gone."
    make_due(waiting)
    assert take(Shares()) == ([], False)
    waiting.refresh_from_db()
    assert (waiting.status, waiting.attempts) == ("dead", 0)
    assert "410 Gone" in waiting.last_error


def test_an_endpoint_that_fails_for_days_is_disabled():
    since = timezone.now() - timedelta(days=5, seconds=1)
    endpoint = make_endpoint(failures=8, failing_since=since)

    tried(make_delivery(endpoint=endpoint), BAD)

    endpoint.refresh_from_db()
    assert (endpoint.state, endpoint.disabled_reason) == (
        "disabled",
        "All deliveries failed for 5 days.",
    )


def test_a_single_failure_after_a_long_silence_disables_nothing():
    last = timezone.now() - timedelta(days=40)
    endpoint = make_endpoint(last_success_at=last)

    tried(make_delivery(endpoint=endpoint), BAD)

    endpoint.refresh_from_db()
    assert (endpoint.state, endpoint.failures) == ("active", 1)


def test_a_success_that_was_just_recorded_is_not_written_again():
    endpoint = make_endpoint()
    tried(make_delivery(endpoint=endpoint), GOOD)
    endpoint.refresh_from_db()
    noted = endpoint.last_success_at

    tried(make_delivery(endpoint=endpoint), GOOD)

    endpoint.refresh_from_db()
    assert endpoint.last_success_at == noted is not None


@pytest.mark.parametrize("hours", (-2, 2))
def test_the_clock_of_the_host_does_not_decide_when_a_delivery_is_tried_again(monkeypatch, hours):
    now = timezone.now
    delivery = make_delivery()
    monkeypatch.setattr(timezone, "now", lambda: now() + timedelta(hours=hours))
    (taken,), _ = take(Shares())

    note([(taken, BAD)])

    delivery.refresh_from_db()
    assert abs(delivery.next_attempt_at - now()) < timedelta(minutes=5)


# --- the log of attempts --------------------------------------------------------------------------
def test_each_attempt_is_logged_with_its_time_and_outcome():
    started = timezone.now()
    delivery = make_delivery()
    tried(delivery, BAD)
    tried(delivery, Answer(error="No response within 10 s."))
    log = tried(delivery, GOOD).attempt_log
    assert [(one["status"], one["error"]) for one in log] == [
        (500, "It answered 500."),
        (None, "No response within 10 s."),
        (200, ""),
    ]
    times = [datetime.fromisoformat(one["at"]) for one in log]
    assert times == sorted(times) and started <= times[0]


def test_a_replay_keeps_the_log_which_has_the_latest_attempts(monkeypatch):
    monkeypatch.setattr(outbox, "KEPT_ATTEMPTS", 3)
    delivery = make_delivery()
    tried(delivery, BAD)
    tried(delivery, GOOD)
    endpoints.replay(delivery)
    for status in (501, 502):
        log = tried(delivery, Answer(status, "Bad.")).attempt_log
    assert [one["status"] for one in log] == [200, 501, 502]


def test_an_attempt_that_lost_its_lease_is_not_logged():
    delivery = make_delivery()
    (held,), _ = take(Shares())
    make_due(delivery)
    take(Shares())
    note([(held, BAD)])
    delivery.refresh_from_db()
    assert delivery.attempt_log == []


# --- by hand --------------------------------------------------------------------------------------
def test_a_waiting_delivery_is_sent_now_and_keeps_its_attempts():
    later = timezone.now() + timedelta(hours=1)
    endpoint = make_endpoint(failures=5, paused_until=later)
    delivery = make_delivery(endpoint=endpoint, attempts=3, next_attempt_at=later)
    assert outbox.send_now(delivery)
    (taken,), _ = take(Shares())
    assert (taken.pk, taken.attempts) == (delivery.pk, 4)


def test_a_delivery_that_is_being_sent_is_not_sent_twice():
    delivery = make_delivery()
    take(Shares())
    delivery.refresh_from_db()
    assert not outbox.send_now(delivery)
    assert take(Shares()) == ([], False)


def test_a_dead_delivery_is_sent_again_from_the_first_attempt():
    delivery = make_delivery(status="dead", attempts=10)
    assert outbox.send_now(delivery)
    (taken,), _ = take(Shares())
    assert (taken.pk, taken.attempts) == (delivery.pk, 1)


def test_nothing_is_sent_now_to_a_disabled_endpoint():
    later = timezone.now() + timedelta(hours=1)
    delivery = make_delivery(next_attempt_at=later)
    endpoints.disable(delivery.endpoint, "Gone.")
    with pytest.raises(WebhookDisabled):
        outbox.send_now(delivery)
