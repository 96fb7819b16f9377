"""Event streams on real processes: the web process and workers share only PostgreSQL and Redis."""

import base64
import io
import threading
import time
from typing import Any

import httpx
import pytest
from PIL import Image

from tests import sse
from tests.acceptance.stack import Stack

pytestmark = pytest.mark.acceptance


def watch(
    stack: Stack, job: dict[str, Any], *, last_event_id: str = "", most: int = 10_000
) -> list[sse.Event]:
    """Return the events until the stream ends or `most` have been received."""
    headers = {"Accept": "text/event-stream"}
    if last_event_id:
        headers["Last-Event-ID"] = last_event_id
    seen: list[sse.Event] = []
    with stack.http.stream("GET", job["urls"]["events"], headers=headers) as answer:
        assert answer.status_code == 200
        for event in sse.events(answer.iter_lines()):
            seen.append(event)
            if len(seen) == most:
                break
    return seen


def data_of(events: list[sse.Event], name: str) -> list[dict[str, Any]]:
    return [event.json() for event in events if event.name == name]


def assert_previews(previews: list[dict[str, Any]], *, size: tuple[int, int], steps: int) -> None:
    for preview in previews:
        with Image.open(io.BytesIO(base64.b64decode(preview["b64_json"]))) as image:
            image.load()
            assert (image.format, image.size) == ("WEBP", size)
        assert preview["format"] == "webp"
        assert 1 <= preview["step"] < preview["steps"] == steps


def assert_rises(progress: list[dict[str, Any]]) -> None:
    steps = [data["step"] for data in progress]
    assert steps == sorted(set(steps))
    percents = [data["percent"] for data in progress]
    assert percents == sorted(percents) and percents[0] < percents[-1] < 100


@pytest.mark.slow
def test_the_event_stream_covers_a_job_from_the_queue_to_its_success(
    stack: Stack, variants: list[str]
):
    job = stack.submit(variant=variants[0], model="slow", seed=9001)

    seen = watch(stack, job)

    names = [event.name for event in seen]
    assert names[0] == "snapshot" and names[-1] == "succeeded"
    assert set(names[1:-1]) <= {"status", "progress", "preview"}
    assert data_of(seen, "snapshot")[0]["id"] == job["id"]
    assert len(data_of(seen, "progress")) >= 3
    assert_rises(data_of(seen, "progress"))
    previews = data_of(seen, "preview")
    assert len(previews) >= 2
    assert_previews(previews, size=(64, 64), steps=150)
    assert [data["step"] for data in previews] == sorted({data["step"] for data in previews})
    assert data_of(seen, "succeeded")[0] == stack.job(job["id"])
    assert len({event.id for event in seen}) == len(seen)


@pytest.mark.slow
def test_a_client_that_reconnects_misses_no_event(stack: Stack, variants: list[str]):
    job = stack.submit(variant=variants[1], model="slow", seed=9002)
    first = watch(stack, job, most=6)
    time.sleep(0.5)  # more events are sent meanwhile

    rest = watch(stack, job, last_event_id=first[-1].id)

    assert "snapshot" not in [event.name for event in rest]
    assert rest[-1].name == "succeeded"
    assert_rises(data_of([*first, *rest], "progress"))
    whole = watch(stack, job, last_event_id=first[0].id)
    # A status that was in the snapshot is not sent again to the same client.
    received = [event for event in [*first[1:], *rest] if event.name != "status"]
    assert [event.id for event in whole if event.name != "status"] == [
        event.id for event in received
    ]
    over = stack.http.get(job["urls"]["events"], headers={"Last-Event-ID": rest[-1].id})
    assert over.status_code == 204


@pytest.mark.slow
def test_a_job_of_few_steps_has_a_preview_of_each_step_but_the_last(
    stack: Stack, variants: list[str]
):
    """Other jobs keep the workers busy, so that the client is connected before its job starts."""
    busy = [
        stack.submit(variant=slug, model="slow", seed=9003 + number, n=2)["id"]
        for number, slug in enumerate(variants[2:4])
    ]
    for job_id in busy:
        stack.running_on(job_id)
    job = stack.submit(variant=variants[4], model="quick", seed=9003, n=2)

    seen = watch(stack, job)

    assert [data["status"] for data in data_of(seen, "status")] == ["running"]
    previews = data_of(seen, "preview")
    assert_previews(previews, size=(64, 64), steps=4)
    assert [(data["step"], data["index"]) for data in previews] == [
        (step, index) for step in (1, 2, 3) for index in (0, 1)
    ]
    assert seen[-1].name == "succeeded"
    stack.ended(busy)


@pytest.mark.slow
def test_the_stream_of_a_canceled_job_ends_with_the_event_canceled(
    stack: Stack, variants: list[str]
):
    job = stack.submit(variant=variants[5], model="slow", seed=9005, n=8)
    canceling = threading.Timer(1, lambda: stack.http.post(f"/v1/jobs/{job['id']}/cancel"))
    canceling.start()

    seen = watch(stack, job)

    canceling.join()
    assert seen[-1].name == "canceled" and seen[-1].json()["status"] == "canceled"


@pytest.mark.slow
def test_a_watching_client_gets_the_final_event_although_redis_is_killed(
    stack: Stack, variants: list[str], redis_server
):
    job = stack.submit(variant=variants[6], model="slow", seed=9006, n=4)
    stack.running_on(job["id"])
    seen: list[sse.Event] = []
    watching = threading.Thread(target=lambda: seen.extend(watch(stack, job)))
    watching.start()
    time.sleep(0.5)
    redis_server.kill()
    try:
        watching.join(timeout=60)
        assert not watching.is_alive()
    finally:
        redis_server.start()

    assert seen[0].name == "snapshot" and seen[-1].name == "succeeded"


@pytest.mark.slow
def test_the_events_of_an_unknown_job_are_not_found(stack: Stack):
    answer = httpx.get(
        f"{stack.run['base_url']}/v1/jobs/00000000-0000-4000-8000-000000000000/events",
        headers={**stack.http.headers, "Accept": "text/event-stream"},
    )

    assert (answer.status_code, answer.headers["content-type"]) == (
        404,
        "application/problem+json",
    )
