"""Webhooks through real processes: signed messages, retries, isolation of slow receivers."""

import os
import signal
import time
from collections.abc import Iterator

import pytest

from deploy.local import ports
from tests.acceptance.stack import Stack, wait_for
from tests.receiver import Got, Receiver, Reply

pytestmark = pytest.mark.acceptance


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def dead() -> Iterator[Receiver]:
    """Takes every connection and never answers."""
    with Receiver() as receiver:
        receiver.reply = lambda got: time.sleep(60) or Reply()
        yield receiver


def secret(stack: Stack) -> str:
    return stack.http.get("/v1/webhooks/default/secret").json()["key"]


def received(receiver: Receiver, number: int) -> list[Got]:
    wait_for(lambda: len(receiver.got) >= number, f"{number} messages came")
    return receiver.got


def deliveries(stack: Stack, job_id: str) -> list[dict]:
    answer = stack.http.get("/v1/webhooks/deliveries", params={"job": job_id})
    return answer.raise_for_status().json()["results"]


@pytest.mark.slow
def test_a_job_sends_start_output_and_completed_to_its_webhook(
    stack: Stack, variants: list[str], receiver: Receiver
):
    job = stack.submit(variant=variants[0], model="quick", seed=9001, webhook=receiver.url)

    by_type = {got.data["type"]: got for got in received(receiver, 3)}

    assert set(by_type) == {"prediction.start", "prediction.output", "prediction.completed"}
    for got in by_type.values():
        assert got.verified(secret(stack))["job"] == job["id"]
    start, end = by_type["prediction.start"].data, by_type["prediction.completed"].data
    assert (start["status"], start["output"]) == ("processing", None)
    assert end["status"] == "succeeded"
    (link,) = end["output"]
    assert stack.http.get(link).content[8:12] == b"WEBP"
    wait_for(
        lambda: {row["status"] for row in deliveries(stack, job["id"])} == {"delivered"},
        "all is delivered",
    )


@pytest.mark.slow
def test_a_cached_job_sends_output_and_completed_to_its_webhook(
    stack: Stack, variants: list[str], receiver: Receiver
):
    fields = {"variant": variants[1], "model": "quick", "seed": 9002}
    stack.ended([stack.submit(**fields)["id"]])

    assert stack.submit(**fields, webhook=receiver.url)["cache"] == "hit"

    types = {got.data["type"] for got in received(receiver, 2)}
    assert types == {"prediction.output", "prediction.completed"}


@pytest.mark.slow
def test_a_message_is_delivered_once_the_receiver_is_up(stack: Stack, variants: list[str]):
    port = ports.pick()
    url = f"http://127.0.0.1:{port}/hook"
    job = stack.submit(
        variant=variants[2], model="quick", seed=9003, webhook=url, webhook_events=["completed"]
    )
    wait_for(
        lambda: [row for row in deliveries(stack, job["id"]) if row["last_error"]], "one failed"
    )

    with Receiver(port=port) as receiver:
        (got,) = received(receiver, 1)  # 5 seconds after the first try

        (row,) = deliveries(stack, job["id"])
        assert (got.id, got.verified(secret(stack))["job"]) == (row["id"], job["id"])
        assert row["attempts"] == 2


@pytest.mark.slow
def test_a_dead_receiver_slows_neither_jobs_nor_other_webhooks(
    stack: Stack, variants: list[str], dead: Receiver, receiver: Receiver
):
    for seed in range(9010, 9018):
        stack.submit(variant=variants[3], model="quick", seed=seed, webhook=dead.url)
    wait_for(lambda: dead.got, "the dead one was tried")

    started = time.monotonic()
    job = stack.submit(
        variant=variants[4],
        model="quick",
        seed=9020,
        webhook=receiver.url,
        webhook_events=["completed"],
    )
    job = stack.job(job["id"], wait=30)
    ended = time.monotonic()
    received(receiver, 1)

    assert job["status"] == "succeeded"
    # One try of the dead receiver alone takes 15 seconds.
    assert ended - started < 15
    assert time.monotonic() - ended < 15


@pytest.mark.slow
def test_a_message_is_sent_again_if_the_sending_process_is_killed(
    stack: Stack, variants: list[str]
):
    with Receiver() as receiver:
        receiver.reply = lambda got: time.sleep(60) or Reply()
        job = stack.submit(
            variant=variants[5],
            model="quick",
            seed=9030,
            webhook=receiver.url,
            webhook_events=["completed"],
        )
        received(receiver, 1)
        receiver.reply = Reply()
        os.kill(stack.pid("webhooks"), signal.SIGKILL)

        first, second = received(receiver, 2)  # the lease is 30 seconds

        assert (first.id, first.body) == (second.id, second.body)
        wait_for(
            lambda: [row["status"] for row in deliveries(stack, job["id"])] == ["delivered"],
            "it is delivered",
        )


@pytest.mark.slow
def test_a_webhook_that_is_gone_is_refused_until_it_is_enabled_and_its_delivery_replayed(
    stack: Stack, variants: list[str], receiver: Receiver
):
    receiver.reply = Reply(410)
    fields = {"variant": variants[6], "model": "quick", "webhook": receiver.url}
    job = stack.submit(**fields, seed=9040, webhook_events=["completed"])
    (dead,) = wait_for(
        lambda: [row for row in deliveries(stack, job["id"]) if row["status"] == "dead"],
        "it was given up",
    )

    refused = stack.http.post("/v1/jobs", json={**fields, "seed": 9041})
    assert (refused.status_code, refused.json()["code"]) == (409, "webhook_disabled")
    receiver.reply = Reply()
    stack.http.post(f"/v1/webhooks/{dead['webhook']}/enable").raise_for_status()
    stack.http.post(f"/v1/webhooks/deliveries/{dead['id']}/replay").raise_for_status()

    first, second = received(receiver, 2)
    assert first.id == second.id == dead["id"]


@pytest.mark.slow
def test_a_prediction_sends_webhooks_in_the_format_of_replicate(
    stack: Stack, variants: list[str], receiver: Receiver
):
    answer = stack.http.post(
        "/v1/predictions",
        json={
            "version": "quick",
            "input": {"variant": variants[7], "seed": 9050},
            "webhook": receiver.url,
            "webhook_events_filter": ["completed"],
        },
    )
    assert answer.status_code in (201, 202), answer.text

    (got,) = received(receiver, 1)

    data = got.verified(secret(stack))
    assert (data["id"], data["status"]) == (answer.json()["id"], "succeeded")
