"""Messages that may be lost: wake-ups over Celery, "the job moved" over pub/sub, progress. Rows are the truth."""

import logging
from collections.abc import Iterable
from uuid import UUID

import celery
import kombu.exceptions

from generation.connections import attempt

log = logging.getLogger(__name__)

CHANNEL_PREFIX = "retort:job:"
PROGRESS_PREFIX = "retort:progress:"
PROGRESS_SECONDS = 60


def send(task: str, *, expires: float, queue: str | None = None) -> None:
    """queue: None = the one that the settings route the task to."""
    try:
        celery.current_app.send_task(task, expires=expires, queue=queue)
    except (kombu.exceptions.OperationalError, OSError) as error:
        # Not an error of the caller: the row is committed, and the sweep wakes it when Redis is back.
        log.warning("message_not_sent: %s: %s", task, error)


def wake(queue: str = "generation") -> None:
    """There may be queued jobs. queue: of the workers that should look. Call after commit."""
    send("generation.wake", expires=60, queue=queue)


def encode() -> None:
    """There may be prompt variants without an embedding. Call after commit."""
    send("generation.encode", expires=3600)


def moved(jobs: Iterable[tuple[UUID, str]]) -> None:
    """Tell whoever waits that these jobs (id, status) changed. Call after commit."""
    messages = [(f"{CHANNEL_PREFIX}{job_id}", status) for job_id, status in jobs]

    def publish(redis) -> None:
        with redis.pipeline(transaction=False) as pipe:
            for channel, status in messages:
                pipe.publish(channel, status)
            pipe.execute()

    if messages:
        attempt(publish, None)


def set_progress(job_ids: Iterable[UUID], percent: int) -> None:
    def write(redis) -> None:
        with redis.pipeline(transaction=False) as pipe:
            for job_id in job_ids:
                pipe.set(f"{PROGRESS_PREFIX}{job_id}", percent, ex=PROGRESS_SECONDS)
            pipe.execute()

    attempt(write, None)


def progress(job_id: UUID) -> int:
    """Per cent of a running job, as far as anybody said."""
    value = attempt(lambda redis: redis.get(f"{PROGRESS_PREFIX}{job_id}"), None)
    return int(value) if value else 0
