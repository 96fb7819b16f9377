"""Progress of a batch: published by a real worker for watched jobs only."""

import base64
import io
import json
import time
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from PIL import Image

from generation.catalogue import encoding
from generation.infra import events, heartbeat, notifications
from generation.jobs import lifecycle as jobs
from generation.jobs import retrying, submission
from generation.jobs.failures import Failure
from generation.jobs.job_request import JobRequest
from generation.models import Job
from generation.releases import lifecycle as releases
from generation.worker import progress
from generation.worker.progress import BatchProgress
from tests.factories import make_job, make_user, make_variant
from tests.tiny import make_tiny_release

pytestmark = pytest.mark.django_db(transaction=True)

TEXTS = ("a red glass vase", "a blue clay bowl")


def serve(tmp_path: Path, *, steps: int) -> None:
    make_tiny_release(tmp_path / "tiny", name="tiny", kind="student", steps=steps)
    releases.activate(releases.register(tmp_path / "tiny"))
    for text in TEXTS:
        make_variant(text=text)
    assert encoding.encode_missing() == 0


@pytest.fixture
def writers(settings, monkeypatch, redis_server):
    settings.TORCH_THREADS = 1
    settings.BATCH_SIZE = 4
    heartbeat.stopping.clear()
    yield


@pytest.fixture
def served(tmp_path: Path, writers) -> None:
    serve(tmp_path, steps=4)


def submit(text: str = TEXTS[0], **fields) -> Job:
    return submission.submit(make_user(), JobRequest(text=text, **fields))


def published(redis_server, job: Job) -> list[tuple[str, dict]]:
    progress._writer.submit(int).result()  # wait for the previews that are still being encoded
    entries = redis_server.xrange(events.stream(job.id))
    return [(fields["kind"], json.loads(fields["data"])) for _, fields in entries]


def previews(redis_server, job: Job) -> list[dict]:
    return [data for kind, data in published(redis_server, job) if kind == "preview"]


def picture(preview: dict) -> Image.Image:
    image = Image.open(io.BytesIO(base64.b64decode(preview["b64_json"])))
    assert image.format == "WEBP" and preview["format"] == "webp"
    return image.convert("RGB")


def test_a_watched_job_publishes_status_progress_and_each_step_except_the_last(
    served, redis_server, worker
):
    job = submit(seed=1, n=2)
    events.watch(job.id, previews=True)

    worker.run()

    seen = published(redis_server, job)
    assert seen[0] == ("watched", {})
    assert seen[1] == ("status", {"status": "running", "attempt": 1})
    assert seen[2] == ("progress", {"percent": 24, "step": 1, "steps": 4})
    shown = previews(redis_server, job)
    assert [(one["step"], one["index"]) for one in shown] == [
        (1, 0), (1, 1), (2, 0), (2, 1), (3, 0), (3, 1),
    ]  # fmt: skip
    assert {picture(one).size for one in shown} == {(64, 64)}
    assert {one["steps"] for one in shown} == {4}
    assert redis_server.ttl(events.stream(job.id)) > events.KEPT_SECONDS - 30


def test_for_an_unwatched_job_nothing_is_written(served, redis_server, worker):
    watched, other = submit(TEXTS[0], seed=1), submit(TEXTS[1], seed=1)
    events.watch(watched.id, previews=True)

    worker.run()

    assert Job.objects.filter(status="succeeded").count() == 2
    assert previews(redis_server, watched)
    assert not redis_server.exists(events.stream(other.id))


def test_no_previews_are_made_unless_a_watcher_wants_them(served, redis_server, worker):
    job = submit(seed=1)
    events.watch(job.id, previews=False)

    worker.run()

    assert {kind for kind, _ in published(redis_server, job)} == {"watched", "status", "progress"}


def test_a_watched_job_gets_the_same_picture(served, redis_server, worker):
    alone = submit(seed=5)
    worker.run()
    first = alone.images.get().sha256
    alone.images.all().delete()
    redis_server.flushdb()
    again = make_job(
        variant=alone.variant, embedding=alone.embedding, release=alone.release, seed=5
    )
    events.watch(again.id, previews=True)

    worker.run()

    assert len(previews(redis_server, again)) == 3
    assert again.images.get().sha256 == first


def test_a_release_of_one_step_has_no_previews_and_makes_no_calls_to_redis(
    tmp_path, writers, redis_server, worker
):
    serve(tmp_path, steps=1)
    job = submit(seed=1)
    events.watch(job.id, previews=True)

    worker.run()

    job.refresh_from_db()
    assert job.status == "succeeded"
    assert {kind for kind, _ in published(redis_server, job)} == {"watched", "status"}
    assert redis_server.get(f"{notifications.PROGRESS_PREFIX}{job.id}") is None


def test_a_watched_job_that_returns_to_the_queue_publishes_its_status(redis_server):
    job = make_job()
    events.watch(job.id, previews=True)
    (taken,) = jobs.claim("worker-1").jobs

    jobs.settle(jobs.Claim.of(taken), jobs.Outcome.FAILED, Failure("worker_lost", "x"))
    jobs.cancel(job.id)
    retrying.retry_these([job.id])

    assert published(redis_server, job)[1:] == [
        ("status", {"status": "running", "attempt": 1}),
        ("status", {"status": "queued", "attempt": 1}),
        ("status", {"status": "queued", "attempt": 1}),
    ]


def test_previews_that_cannot_be_made_fail_no_job(served, redis_server, caplog, worker):
    job = submit(seed=1)
    events.watch(job.id, previews=True)
    decoder = worker.loaded.get(job.release).runtime.vae.decoder
    calls = []

    def hook(*_):
        calls.append(1)
        if len(calls) == 1:
            raise ArithmeticError("no preview")

    handle = decoder.register_forward_pre_hook(hook)
    try:
        worker.run()
    finally:
        handle.remove()

    job.refresh_from_db()
    assert job.status == "succeeded"
    assert previews(redis_server, job) == []
    assert "previews_failed" in caplog.text and "no preview" in caplog.text


# --- without a worker -----------------------------------------------------------------------------
PIXELS = np.zeros((8, 8, 3), dtype=np.uint8)


def watched_batch(images: int = 1) -> BatchProgress:
    job_id = uuid4()
    events.watch(job_id, previews=True)
    batch = BatchProgress([(job_id, index) for index in range(images)], done=0, total=images)
    batch.stepped(1, 20)
    return batch


def test_previews_of_many_steps_take_a_tenth_of_the_time_and_are_four_a_second_at_most(
    redis_server, monkeypatch
):
    now = time.monotonic()
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    batch = watched_batch()

    assert list(batch.wanted(1, 20)) == [0]
    batch.show(1, 20, {}, seconds=0.001)
    now += 0.24
    assert not batch.wanted(2, 20)
    assert batch.wanted(2, 8)  # few steps: each
    now += 0.02
    assert batch.wanted(3, 20)
    batch.show(3, 20, {}, seconds=0.5)
    now += 4.9
    assert not batch.wanted(4, 20)
    now += 0.2
    assert batch.wanted(5, 20)


def test_progress_is_published_ten_times_a_second_at_most(redis_server, monkeypatch):
    now = time.monotonic()
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    batch = watched_batch()
    for step in range(2, 12):
        now += 0.051  # two of them exceed a tenth, however they are rounded
        batch.stepped(step, 20)

    (job_id,) = batch._jobs
    entries = redis_server.xrange(events.stream(job_id))
    percents = [
        json.loads(fields["data"])["percent"]
        for _, fields in entries
        if fields["kind"] == "progress"
    ]
    assert len(percents) == 6
    assert percents == sorted(percents)


def test_when_encoding_is_too_slow_previews_are_dropped_instead_of_queued(redis_server):
    batch = watched_batch(images=progress.WAITING_PREVIEWS + 10)
    (job_id,) = batch._jobs
    blocked = progress._writer.submit(time.sleep, 0.3)

    batch.show(1, 4, dict.fromkeys(range(progress.WAITING_PREVIEWS + 10), PIXELS), 0.1)

    blocked.result()
    progress._writer.submit(int).result()
    entries = redis_server.xrange(events.stream(job_id))
    kinds = [fields["kind"] for _, fields in entries]
    assert kinds.count("preview") == progress.WAITING_PREVIEWS
    batch.show(2, 4, {0: PIXELS}, 0.1)
    progress._writer.submit(int).result()
    assert len(redis_server.xrange(events.stream(job_id))) == len(entries) + 1


def test_without_redis_nothing_is_published_and_nothing_fails(settings, monkeypatch):
    from generation.infra import redis_client

    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    monkeypatch.setattr(redis_client, "_client", None)
    monkeypatch.setattr(redis_client, "_resume_at", 0.0)
    job_id = uuid4()

    assert events.watch(job_id, previews=True) == events.NO_ID
    batch = BatchProgress([(job_id, 0)], done=0, total=1)
    batch.stepped(1, 4)
    assert not batch.wanted(1, 4)
