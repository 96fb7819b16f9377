"""Webhook endpoints: validation of URLs, signing secrets, deliveries inserted when a job changes."""

import base64
import threading
from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from generation.access import quotas
from generation.errors import InvalidRequest, WebhookDisabled
from generation.images import store as images
from generation.jobs import claiming, completion, submission
from generation.jobs import lifecycle as jobs
from generation.jobs.failures import Failure
from generation.jobs.job_request import JobRequest
from generation.jobs.lifecycle import Claim, Outcome
from generation.models import Delivery, Job, WebhookEndpoint
from generation.webhooks import endpoints as webhooks
from tests import fake_worker
from tests.factories import (
    make_delivery,
    make_embedding,
    make_endpoint,
    make_job,
    make_release,
    make_user,
    make_variant,
    make_worker,
)

pytestmark = pytest.mark.django_db(transaction=True)

URL = "https://example.org/hook"
ALL = ["start", "output", "completed"]


# --- URLs -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "url",
    [
        URL,
        "https://example.org",
        "https://example.org:8443/a?b=c&d=%20",
        "https://xn--caf-dma.example/",
        "https://8.8.8.8/",
        "https://[2606:4700::1111]/",
        "HTTPS://EXAMPLE.org/",
    ],
)
def test_public_https_urls_are_accepted(url: str):
    assert webhooks.endpoint(make_user(), url).url == url


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://example.org/hook", "must begin with https://"),
        ("http://localhost:9000/hook", "WEBHOOK_PRIVATE_HOSTS=true"),
        ("ftp://example.org/hook", "must begin with https://"),
        ("example.org/hook", "must begin with https://"),
        ("", "ASCII"),
        ("https://", "no valid host name"),
        ("https://user:secret@example.org/", "credentials"),
        ("https://@example.org/", "credentials"),
        ("https://example.org/#a", "fragment"),
        ("https://example.org/#", "fragment"),
        ("https://example.org:0/", "port"),
        ("https://example.org:25/", "port must be"),
        ("https://example.org:99999/", "not valid"),
        ("https://example.org:x/", "not valid"),
        ("https://[::1", "not valid"),
        ("https://a..b/", "no valid host name"),
        ("https://-a.example/", "no valid host name"),
        (f"https://{'a' * 64}.example/", "no valid host name"),
        (f"https://{'a.' * 150}example/", "no valid host name"),
        ("https://café.example/", "ASCII"),
        ("https://example.org/a b", "ASCII"),
        ("https://example.org/\x00", "ASCII"),
        ("https://example.org\\@127.0.0.1/", "ASCII"),
        ("https://example.org/" + "a" * 500, "at most 500"),
        ("https://127.0.0.1/", "public IP address"),
        ("https://169.254.169.254/", "public IP address"),
        ("https://[::1]/", "public IP address"),
        ("https://[::ffff:10.0.0.1]/", "public IP address"),
        ("https://localhost/", "public IP address"),
        ("https://127.0.0.1:9000/", "WEBHOOK_PRIVATE_HOSTS=true"),
        ("https://a.localhost./", "public IP address"),
        ("https://2130706433/", "not a valid IP address"),
        ("https://1.2.3/", "not a valid IP address"),
    ],
)
def test_other_urls_are_refused_with_a_message(url: str, reason: str):
    with pytest.raises(InvalidRequest, match=reason) as refused:
        webhooks.endpoint(make_user(), url)
    assert refused.value.parameter == "webhook"
    assert not WebhookEndpoint.objects.exists()


def test_in_a_closed_network_private_addresses_and_http_are_accepted(settings):
    settings.WEBHOOK_PRIVATE_HOSTS = True

    for url in ("http://localhost:9000/a", "http://10.0.0.1/", "https://[::1]:8443/"):
        assert webhooks.endpoint(make_user(), url).url == url
    with pytest.raises(InvalidRequest, match="https:// or http://"):
        webhooks.endpoint(make_user(), "file:///etc/passwd")


def test_an_owner_has_one_endpoint_for_each_url():
    ours, theirs = make_user(), make_user(username="other")

    first = webhooks.endpoint(ours, URL)

    assert webhooks.endpoint(ours, URL) == first
    assert webhooks.endpoint(theirs, URL) != first
    assert WebhookEndpoint.objects.count() == 2


def test_a_disabled_endpoint_is_refused_until_it_is_enabled():
    endpoint = webhooks.disable(make_endpoint(failures=7), "The response was 410 Gone.")

    with pytest.raises(WebhookDisabled, match=f"410 Gone.*webhooks/{endpoint.pk}/enable"):
        webhooks.endpoint(endpoint.owner, endpoint.url)
    webhooks.enable(endpoint)

    again = webhooks.endpoint(endpoint.owner, endpoint.url)
    assert (again.state, again.failures, again.disabled_reason) == ("active", 0, "")


# --- secrets --------------------------------------------------------------------------------------
def test_a_secret_is_made_once_for_each_owner():
    ours, theirs = make_user(), make_user(username="other")

    secret = webhooks.secret_of(ours.pk).secret

    assert secret.startswith("whsec_")
    assert len(base64.b64decode(secret.removeprefix("whsec_"))) == 32
    assert webhooks.secret_of(ours.pk).secret == secret
    assert webhooks.secret_of(theirs.pk).secret != secret


def test_after_a_rotation_the_previous_secret_signs_for_a_day():
    before = webhooks.secret_of(make_user().pk).secret

    rotated = webhooks.rotate(make_user().pk)

    now = timezone.now()
    assert rotated.secret != before
    assert webhooks.signing(rotated, now) == [rotated.secret, before]
    assert webhooks.signing(rotated, now + timedelta(hours=25)) == [rotated.secret]


def test_a_secret_that_was_never_rotated_signs_alone():
    secret = webhooks.secret_of(make_user().pk)

    assert webhooks.signing(secret, timezone.now()) == [secret.secret]


# --- deliveries of changed jobs -------------------------------------------------------------------
def events_of(job: Job) -> list[str]:
    return list(job.deliveries.order_by("created_at").values_list("event", flat=True))


def watched(*, events: list[str] = ALL, **fields) -> Job:
    job = make_job(webhook=make_endpoint(), webhook_events=events, **fields)
    job.key = images.job_key(images.keys(job))
    job.save(update_fields=["key"])
    return job


def test_the_start_is_inserted_with_the_claim_and_the_end_with_the_commit():
    job = watched()

    (claimed,) = jobs.claim("w1").jobs
    assert events_of(job) == ["start"]

    assert completion.commit([fake_worker.result_of(claimed)]) == []
    assert events_of(job) == ["start", "output", "completed"]
    delivery = job.deliveries.first()
    assert (delivery.owner_id, delivery.endpoint_id) == (job.owner_id, job.webhook_id)
    assert (delivery.status, delivery.attempts, delivery.body) == ("pending", 0, "")


def test_only_requested_events_are_inserted():
    job = watched(events=["completed"])

    (claimed,) = jobs.claim("w1").jobs
    completion.commit([fake_worker.result_of(claimed)])

    assert events_of(job) == ["completed"]


def test_a_failed_and_a_canceled_job_are_completed_without_output():
    failed, canceled = watched(), watched(seed=2)
    claims = {job.id: Claim.of(job) for job in jobs.claim("w1").jobs}

    jobs.settle(claims[failed.id], Outcome.FAILED, Failure("x", "x", retryable=False))
    jobs.cancel(canceled.id)
    jobs.cancel(canceled.id)  # a second time changes nothing

    assert events_of(failed) == events_of(canceled) == ["start", "completed"]


def test_a_start_is_inserted_once_however_many_attempts_a_job_has():
    job = watched()
    (claim,) = (Claim.of(claimed) for claimed in jobs.claim("w1").jobs)
    jobs.settle(claim, Outcome.LOST, Failure("worker_lost", "x"))

    jobs.claim("w2")

    assert events_of(job) == ["start"]


def test_a_job_that_reached_its_deadline_is_reported_as_completed():
    job = watched(cancel_at=timezone.now() - timedelta(seconds=1))

    jobs.end_overdue()

    assert events_of(job) == ["completed"]


def test_an_identical_job_that_is_answered_by_a_commit_is_reported_too():
    job = watched()
    twin = make_job(webhook=make_endpoint(), webhook_events=ALL, key=job.key)
    (claimed,) = jobs.claim("w1").jobs

    completion.commit([fake_worker.result_of(claimed)])

    assert events_of(twin) == ["output", "completed"]


def test_a_refused_result_inserts_no_delivery():
    job = watched()
    (late,) = jobs.claim("slow").jobs
    jobs.cancel(job.id)

    assert completion.commit([fake_worker.result_of(late)]) != []

    assert events_of(job) == ["start", "completed"]


def test_a_change_that_is_rolled_back_inserts_no_delivery(monkeypatch):
    job = watched()
    (claimed,) = jobs.claim("w1").jobs
    monkeypatch.setattr(quotas, "spend", lambda **_: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        completion.commit([fake_worker.result_of(claimed)])

    assert events_of(job) == ["start"]


def test_a_job_without_a_webhook_costs_no_query_for_it():
    statements: list[str] = []

    def keep(execute, sql, parameters, many, context):
        statements.append(sql)
        return execute(sql, parameters, many, context)

    with connection.execute_wrapper(keep):
        make_job()
        (claimed,) = jobs.claim("w1").jobs
        completion.commit([fake_worker.result_of(claimed)])
        jobs.cancel(make_job(seed=2).id)

    assert len(statements) > 10
    assert not [
        sql
        for sql in statements
        if sql != claiming.TAKE and ("generation_delivery" in sql or "webhookendpoint" in sql)
    ]


# --- submission -----------------------------------------------------------------------------------
def test_a_job_is_submitted_with_a_webhook(settings):
    make_embedding(variant=make_variant(slug="vase"))
    make_release()
    owner = make_user()

    job = submission.submit(
        owner, JobRequest(variant="vase", webhook=URL, webhook_events=["completed"])
    )
    every = submission.submit(owner, JobRequest(variant="vase", webhook=URL))
    none = submission.submit(owner, JobRequest(variant="vase"))

    assert (job.webhook.url, job.webhook_events) == (URL, ["completed"])
    assert every.webhook_events == ALL
    assert (none.webhook, none.webhook_events) == (None, [])


@pytest.mark.parametrize("events", [[], ["logs"], ["completed", "x"]])
def test_unknown_events_and_none_at_all_are_refused(events: list[str]):
    make_release()
    make_embedding(variant=make_variant(slug="vase"))

    with pytest.raises(InvalidRequest, match="start, output, completed"):
        submission.submit(
            make_user(), JobRequest(variant="vase", webhook=URL, webhook_events=events)
        )


def test_events_without_a_webhook_are_refused():
    make_release()
    make_embedding(variant=make_variant(slug="vase"))

    with pytest.raises(InvalidRequest, match="only with webhook"):
        submission.submit(make_user(), JobRequest(variant="vase", webhook_events=["start"]))


# --- replay and clean-up --------------------------------------------------------------------------
def test_a_replay_makes_a_dead_delivery_due_and_ends_the_pause_of_its_endpoint():
    endpoint = make_endpoint(failures=9, paused_until=timezone.now() + timedelta(hours=1))
    delivery = make_delivery(
        endpoint=endpoint, status="dead", attempts=10, last_error="It answered 500.", body="{}"
    )

    again = webhooks.replay(delivery)

    assert (again.status, again.attempts, again.last_error, again.body) == ("pending", 0, "", "{}")
    assert webhooks.are_due()
    endpoint.refresh_from_db()
    assert endpoint.paused_until is None and endpoint.failures == 9


def test_a_replay_does_not_change_waiting_deliveries():
    later = timezone.now() + timedelta(hours=1)
    delivery = make_delivery(attempts=3, next_attempt_at=later)

    again = webhooks.replay(delivery)

    assert (again.attempts, again.next_attempt_at) == (3, later)


def test_nothing_is_replayed_to_a_disabled_endpoint():
    endpoint = webhooks.disable(make_endpoint(), "No.")

    with pytest.raises(WebhookDisabled):
        webhooks.replay(make_delivery(endpoint=endpoint, status="dead"))


def test_old_deliveries_are_deleted_except_for_those_that_wait(settings, monkeypatch):
    settings.WEBHOOK_KEPT_DAYS = 30
    monkeypatch.setattr(webhooks, "FORGOTTEN_AT_ONCE", 2)
    job = make_job(status="succeeded")
    old = timezone.now() - timedelta(days=31)
    for status in ("delivered", "delivered", "dead", "pending"):
        make_delivery(job=job, status=status, created_at=old)
    make_delivery(job=job, status="delivered")

    assert webhooks.forget_old() == 3

    assert sorted(Delivery.objects.values_list("status", flat=True)) == ["delivered", "pending"]


def test_the_sweep_notifies_the_sender_when_something_is_due(monkeypatch):
    from generation import tasks
    from generation.infra import notifications

    called = []
    monkeypatch.setattr(notifications, "deliver", lambda: called.append(1))
    tasks.sweep()
    make_worker(name="webhooks", queue="webhooks")
    tasks.sweep()
    assert called == []
    make_delivery()

    tasks.sweep()

    assert called == [1]


def test_jobs_and_answers_of_one_endpoint_do_not_wait_for_each_other():
    """An answer is recorded under a lock that does not block inserts of rows which refer to the endpoint."""
    from django.db import transaction

    endpoint = make_endpoint()
    job = watched()
    done = threading.Event()

    def cancel() -> None:
        jobs.cancel(job.id)
        connection.close()
        done.set()

    with transaction.atomic():
        WebhookEndpoint.objects.select_for_update(no_key=True).get(pk=endpoint.pk)
        thread = threading.Thread(target=cancel)
        thread.start()
        assert done.wait(60)
    thread.join()
    assert events_of(job) == ["completed"]
