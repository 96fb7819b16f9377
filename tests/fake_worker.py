"""Stands in for a worker, without a device: images of one colour, previews, failures."""

import base64
import io
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from django.db import connection
from PIL import Image as Picture

from generation.images import store as images
from generation.infra import events
from generation.jobs import completion
from generation.jobs import lifecycle as jobs
from generation.jobs.failures import Failure
from generation.models import Attempt, Job

COLOR = (200, 40, 40)


def make_pictures() -> None:
    """Finish every queued job."""
    assert finish(jobs.claim("worker-1").jobs) == []


def finish(
    claimed: Sequence[Job], *, device_seconds: float = 0.01, encode_seconds: float = 0.0
) -> list[jobs.Claim]:
    """Commit a result for each of these jobs. Return the claims that were refused."""
    refused = []
    for job in claimed:
        result = result_of(job, device_seconds=device_seconds, encode_seconds=encode_seconds)
        refused += completion.commit([result])
    return refused


def result_of(
    job: Job, *, device_seconds: float = 0.01, encode_seconds: float = 0.0
) -> completion.Result:
    """Store the images of a claimed job, with metadata if the job requests it."""
    stored = []
    for index, key in enumerate(images.keys(job)):
        pixels = np.full((job.height, job.width, 3), COLOR, dtype=np.uint8)
        metadata = images.metadata(job, job.seed + index)
        stored.append(images.store(key, pixels, job.output_format, metadata=metadata))
    return completion.Result(job, stored, device_seconds, encode_seconds=encode_seconds)


def fail() -> None:
    for job in jobs.claim("worker-1").jobs:
        claim = jobs.Claim.of(job)
        jobs.settle(claim, Attempt.Outcome.FAILED, Failure("not_finite", "No.", retryable=False))


def show_previews_then_pictures(*, previews: int) -> None:
    """Claim one watched job, publish its previews, then commit its images."""
    claimed = jobs.claim("worker-1").jobs
    buffer = io.BytesIO()
    Picture.new("RGB", (16, 16), COLOR).save(buffer, "webp")
    content = base64.b64encode(buffer.getvalue()).decode()
    for step in range(1, previews + 1):
        shown = {"index": 0, "step": step, "steps": previews + 1, "format": "webp"}
        events.write([events.Event(claimed[0].id, "preview", shown | {"b64_json": content})])
    finish(claimed)


@contextmanager
def in_background() -> Iterator[Callable[..., None]]:
    """Yield `begin(action, after=1)`: run the action in a thread, `after` seconds after a job is waiting."""
    threads: list[threading.Thread] = []

    def begin(action: Callable[[], None], *, after: float = 0) -> None:
        def run() -> None:
            try:
                deadline = time.monotonic() + 300
                while not Job.objects.filter(status="queued").exists():
                    assert time.monotonic() < deadline
                    time.sleep(0.02)
                time.sleep(after)
                action()
            finally:
                connection.close()

        threads.append(threading.Thread(target=run))
        threads[-1].start()

    yield begin
    for thread in threads:
        thread.join()
