"""Jobs on real processes: two workers, real servers, real signals. Every accepted job ends in exactly one state."""

import io
import os
import random
import signal
import time

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.acceptance.stack import Stack, wait_for

pytestmark = pytest.mark.acceptance

WORDS = "a red glass vase on a wooden table"


def picture(stack: Stack, image: dict) -> np.ndarray:
    answer = httpx.get(
        image["url"] if image["url"].startswith("http") else stack.run["base_url"] + image["url"]
    )
    answer.raise_for_status()
    return np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGB"), dtype=int)


def assert_each_ended_once(stack: Stack, ids: list[str], jobs: list[dict]) -> None:
    """Every job succeeded, with all its images, by exactly one successful attempt or by an image that existed."""
    assert {job["status"] for job in jobs} == {"succeeded"}
    for job in jobs:
        assert len(job["images"]) == job["n"], job
        succeeded = [
            number for number, outcome in stack.attempts(job["id"]) if outcome == "succeeded"
        ]
        assert len(succeeded) == (
            0 if job["cache"] == "shared" or not stack.attempts(job["id"]) else 1
        ), job
    rows = stack.query(
        "SELECT count(*) AS n FROM generation_image WHERE job_id = ANY(%s::uuid[])", ids
    )
    assert rows[0]["n"] == sum(job["n"] for job in jobs)


@pytest.mark.slow
def test_two_hundred_mixed_jobs_over_two_workers_end_exactly_once(
    stack: Stack, variants: list[str]
):
    chance = random.Random(1)
    ids = [
        stack.submit(
            variant=chance.choice(variants), model=chance.choice(["quick", "other"]), n=chance.choice([1, 1, 1, 2, 3]),
            seed=chance.randrange(60), output_format=chance.choice(["webp", "png", "jpeg"]),
        )["id"]
        for _ in range(200)
    ]  # fmt: skip

    jobs = stack.ended(ids)

    assert_each_ended_once(stack, ids, jobs)
    used = stack.query(
        "SELECT DISTINCT worker_name FROM generation_attempt WHERE job_id = ANY(%s::uuid[])", ids
    )
    assert len(used) == 2


@pytest.mark.slow
def test_a_seed_gives_the_same_picture_alone_and_in_a_batch_of_eight(
    stack: Stack, variants: list[str]
):
    seed = 4242
    alone = stack.ended(
        [stack.submit(text=WORDS, model="quick", seed=seed, output_format="png")["id"]]
    )[0]
    first = picture(stack, alone["images"][0])
    # n = 8 from seed - 3: the same seed as the fourth of eight in one UNet call.
    batch = stack.ended(
        [stack.submit(text=WORDS, model="quick", seed=seed - 3, n=8, output_format="png")["id"]]
    )[0]
    fourth = picture(stack, batch["images"][3])

    rows = stack.query("SELECT batch_size FROM generation_attempt WHERE job_id = ANY(%s::uuid[]) ORDER BY batch_size",
                       [alone["id"], batch["id"]])  # fmt: skip
    assert [row["batch_size"] for row in rows] == [1, 8]
    assert batch["images"][3]["seed"] == seed
    assert np.abs(first - fourth).max() <= 8
    assert np.abs(first - picture(stack, batch["images"][4])).max() > 8


def test_a_worker_killed_in_mid_batch_loses_no_job(stack: Stack, variants: list[str]):
    ids = [stack.submit(variant=slug, model="slow", seed=3)["id"] for slug in variants[:12]]
    victim = stack.running_on(ids[0])
    os.kill(stack.pid(victim), signal.SIGKILL)

    jobs = stack.ended(ids)

    assert_each_ended_once(stack, ids, jobs)
    assert (1, "lost") in stack.attempts(ids[0])
    wait_for(lambda: len(stack.workers_alive()) == 2, "the killed worker was started again")


@pytest.mark.slow
def test_the_late_result_of_a_frozen_worker_is_refused(stack: Stack, variants: list[str]):
    job_id = stack.submit(variant=variants[0], model="slow", seed=77)["id"]
    frozen = stack.running_on(job_id)
    pid = stack.pid(frozen)
    os.kill(pid, signal.SIGSTOP)
    try:
        (job,) = stack.ended([job_id])
        assert stack.attempts(job_id) == [(1, "lost"), (2, "succeeded")]
        before = stack.query("SELECT id, sha256 FROM generation_image WHERE job_id = %s", job_id)
    finally:
        os.kill(pid, signal.SIGCONT)
    # The thawed worker must continue to serve, and its late result must not be stored.
    again = [stack.submit(variant=slug, model="quick", seed=78)["id"] for slug in variants[:20]]
    stack.ended(again)
    wait_for(lambda: frozen in stack.workers_alive(), "the thawed worker is alive")
    assert stack.pid(frozen) == pid
    assert job["status"] == "succeeded"
    assert stack.attempts(job_id) == [(1, "lost"), (2, "succeeded")]
    assert (
        stack.query("SELECT id, sha256 FROM generation_image WHERE job_id = %s", job_id) == before
    )


@pytest.mark.slow
def test_killing_redis_for_twenty_seconds_under_load_loses_no_job(
    stack: Stack, variants: list[str], redis_server
):
    ids = [stack.submit(variant=slug, model="slow", seed=11)["id"] for slug in variants[:6]]
    redis_server.kill()
    started = time.monotonic()
    while time.monotonic() - started < 20:
        ids.append(stack.submit(variant=random.choice(variants), model="quick", n=1)["id"])
        time.sleep(0.5)
    redis_server.start()

    jobs = stack.ended(ids)

    assert_each_ended_once(stack, ids, jobs)


@pytest.mark.slow
def test_restarting_postgresql_under_load_loses_no_accepted_job(stack: Stack, variants: list[str]):
    ids = [stack.submit(variant=slug, model="slow", seed=21)["id"] for slug in variants[:10]]
    stack.running_on(ids[0])
    pid = stack.pid("postgres")
    os.kill(pid, signal.SIGINT)  # PostgreSQL's fast shutdown; the supervisor starts it again
    wait_for(lambda: stack.pid("postgres") != pid, "PostgreSQL was started again")

    jobs = stack.ended(ids)

    assert_each_ended_once(stack, ids, jobs)


@pytest.mark.slow
def test_a_job_that_kills_its_workers_fails_and_the_workers_recover(
    stack: Stack, variants: list[str]
):
    poison = stack.submit(variant=variants[0], model="slow", seed=666)["id"]
    for attempt in (1, 2, 3):
        os.kill(stack.pid(stack.running_on(poison, attempt=attempt)), signal.SIGKILL)

    (job,) = stack.ended([poison])

    assert (job["status"], job["error"]["code"]) == ("failed", "worker_lost")
    assert stack.attempts(poison) == [(1, "lost"), (2, "lost"), (3, "lost")]
    wait_for(lambda: len(stack.workers_alive()) == 2, "both workers are back")
    (after,) = stack.ended([stack.submit(variant=variants[1], model="quick", seed=667)["id"]])
    assert after["status"] == "succeeded"


@pytest.mark.slow
def test_a_job_with_a_damaged_embedding_fails_and_other_jobs_succeed(
    stack: Stack, variants: list[str]
):
    good = [stack.submit(variant=slug, model="slow", seed=31)["id"] for slug in variants[:2]]
    bad = stack.submit(variant=variants[3], model="quick", seed=31)["id"]
    (row,) = stack.query("SELECT id, data FROM generation_embedding WHERE id ="
                         " (SELECT embedding_id FROM generation_job WHERE id = %s)", bad)  # fmt: skip
    damage = "UPDATE generation_embedding SET data = %s WHERE id = %s"
    stack.query(damage, b"\x00", row["id"])
    pids = {name: stack.pid(name) for name in ("generation-1", "generation-2")}

    try:
        jobs = {job["id"]: job for job in stack.ended([*good, bad])}
    finally:
        stack.query(damage, row["data"], row["id"])  # the tests after this one use it

    assert jobs[bad]["status"] == "failed"
    assert jobs[bad]["error"]["code"] == "embedding_invalid"
    assert {jobs[job_id]["status"] for job_id in good} == {"succeeded"}
    assert {name: stack.pid(name) for name in pids} == pids


@pytest.mark.slow
def test_jobs_are_canceled_while_queued_and_while_running(stack: Stack, variants: list[str]):
    running = [
        stack.submit(variant=variants[n], model="slow", seed=51, n=8)["id"] for n in range(2)
    ]
    waiting = stack.submit(variant=variants[5], model="slow", seed=51)["id"]
    for job_id in running:
        stack.running_on(job_id)

    assert stack.http.post(f"/v1/jobs/{waiting}/cancel").json()["status"] == "canceled"
    assert stack.http.post(f"/v1/jobs/{running[0]}/cancel").json()["status"] == "canceled"
    again = stack.http.post(f"/v1/jobs/{running[0]}/cancel")
    assert (again.status_code, again.json()["status"]) == (200, "canceled")
    (other,) = stack.ended([running[1]])

    assert other["status"] == "succeeded"
    assert stack.attempts(waiting) == []
    assert stack.attempts(running[0]) == [(1, "canceled")]
    assert stack.job(running[0])["images"] == []


def test_identical_jobs_at_once_are_computed_once_and_a_repeat_is_a_hit(
    stack: Stack, variants: list[str]
):
    fields = {"variant": variants[7], "model": "slow", "seed": 61}
    ids = [stack.submit(**fields)["id"] for _ in range(8)]

    jobs = stack.ended(ids)
    repeat = stack.submit(**fields)

    assert {job["status"] for job in jobs} == {"succeeded"}
    # "hit": another worker claimed it before the first one had answered all of them.
    caches = sorted(job["cache"] for job in jobs)
    assert caches.count("miss") == 1 and set(caches) <= {"hit", "miss", "shared"}
    assert len({job["images"][0]["sha256"] for job in jobs}) == 1
    assert (repeat["status"], repeat["cache"]) == ("succeeded", "hit")
    assert repeat["images"][0]["sha256"] == jobs[0]["images"][0]["sha256"]
    assert picture(stack, repeat["images"][0]).shape[2] == 3


@pytest.mark.slow
def test_a_repeated_request_is_a_hit_after_redis_is_flushed(
    stack: Stack, variants: list[str], redis_server
):
    fields = {"variant": variants[8], "model": "quick", "seed": 62}
    stack.ended([stack.submit(**fields)["id"]])
    redis_server.client().flushall()

    repeat = stack.submit(**fields)

    assert (repeat["status"], repeat["cache"]) == ("succeeded", "hit")
