"""Messages that may be lost, since rows are the truth: Celery messages, changes of jobs over pub/sub, progress."""

import logging
from collections.abc import Collection, Iterable, Mapping
from uuid import UUID

import celery
import kombu.exceptions
import redis

from generation.infra import events, redis_client
from generation.infra.events import CHANNEL_PREFIX as CHANNEL_PREFIX
from generation.infra.events import Event, Watched
from generation.infra.redis_client import attempt, decoded

log = logging.getLogger(__name__)

UNREAD_PREFIX = "retort:unread:"  # mark of a queue with a message that no worker has received
UNREAD_SECONDS = 1  # how long a lost message delays the next one
PROGRESS_PREFIX = "retort:progress:"
PROGRESS_SECONDS = 60


def send(task: str, *, expires: float, queue: str | None = None) -> None:
    """Send the message of a task. queue: None = the task's queue in the settings."""
    if redis_client.is_paused():
        return
    try:
        celery.current_app.send_task(task, expires=expires, queue=queue)
    except (kombu.exceptions.KombuError, redis.RedisError, OSError) as error:
        # Not raised: the row is committed, and the sweep sends the message when Redis is back.
        redis_client.pause()
        log.warning("message_not_sent: %s: %s", task, error)


def wake(queue: str = "generation") -> None:
    """Send `generation.serve` to a worker of this queue, unless an unread one exists. Call after commit.

    Otherwise there would be one message per job, and workers would read them all before a new one.
    """
    name = UNREAD_PREFIX + queue
    if attempt(lambda redis: redis.set(name, 1, nx=True, ex=UNREAD_SECONDS), None):
        send("generation.serve", expires=60, queue=queue)


def received(queue: str) -> None:
    """Delete the mark of an unread message. The worker that received it then claims jobs."""
    attempt(lambda redis: redis.delete(UNREAD_PREFIX + queue), None)


def deliver() -> None:
    """Send the task that delivers due webhooks. Call after commit."""
    send("generation.deliver", expires=60)


def encode() -> None:
    """Send the task that computes missing embeddings. Call after commit."""
    send("generation.encode", expires=3600)


def match(expires: float) -> None:
    """Send the task that matches texts. expires: seconds until no client waits any more."""
    send("generation.match", expires=expires)


def moved(
    jobs: Iterable[tuple[UUID, str]],
    *,
    attempts: Mapping[UUID, int] | None = None,
) -> None:
    """Notify waiting clients that these jobs (id, status) changed. Call after commit.

    attempts: attempt numbers of unfinished jobs; clients that watch them get an event.
    """
    messages = list(jobs)
    going_on = attempts or {}

    def publish(redis) -> Watched:
        with redis.pipeline(transaction=False) as pipe:
            for job_id, status in messages:
                pipe.publish(f"{CHANNEL_PREFIX}{job_id}", status)
            if going_on:
                events.query_watched(pipe, going_on)
            answers = pipe.execute()
        return events.watched(going_on, answers[-1]) if going_on else Watched()

    if messages:
        watched = attempt(publish, Watched())
        events.write(
            Event(job_id, "status", {"status": status, "attempt": going_on[job_id]})
            for job_id, status in messages
            if job_id in watched.events
        )


def set_progress(job_ids: Collection[UUID], percent: int) -> Watched:
    """Publish the progress of running jobs. Return which of them are watched."""

    def write(redis) -> Watched:
        with redis.pipeline(transaction=False) as pipe:
            for job_id in job_ids:
                pipe.set(f"{PROGRESS_PREFIX}{job_id}", percent, ex=PROGRESS_SECONDS)
            events.query_watched(pipe, job_ids)
            return events.watched(job_ids, pipe.execute()[-1])

    return attempt(write, Watched())


def progress(job_id: UUID) -> int:
    """Return the last published percentage of a running job, or 0."""
    value = attempt(lambda redis: redis.get(f"{PROGRESS_PREFIX}{job_id}"), None)
    percent = decoded(value) if value else 0
    return percent if isinstance(percent, int) else 0
