"""Messages that may be lost, since rows are the truth: Celery messages, "the job moved" over pub/sub, progress."""

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

UNREAD_PREFIX = "retort:unread:"  # of a queue that has a message no worker has received yet
UNREAD_SECONDS = 1  # a message that is lost delays the next one for so long
PROGRESS_PREFIX = "retort:progress:"
PROGRESS_SECONDS = 60


def send(task: str, *, expires: float, queue: str | None = None) -> None:
    """Send the message of a task. queue: None = the one that the settings route the task to."""
    if redis_client.is_paused():
        return
    try:
        celery.current_app.send_task(task, expires=expires, queue=queue)
    except (kombu.exceptions.KombuError, redis.RedisError, OSError) as error:
        # Not an error of the caller: the row is committed, and the sweep sends the message when Redis is back.
        redis_client.pause()
        log.warning("message_not_sent: %s: %s", task, error)


def wake(queue: str = "generation") -> None:
    """Send `generation.serve` to a worker of this queue, unless one is unread already. Call after commit.

    Without the mark there would be a message for each job, and workers would read them all before a new one.
    """
    name = UNREAD_PREFIX + queue
    if attempt(lambda redis: redis.set(name, 1, nx=True, ex=UNREAD_SECONDS), None):
        send("generation.serve", expires=60, queue=queue)


def received(queue: str) -> None:
    """Delete the mark of an unread message: the worker that received it claims jobs after this."""
    attempt(lambda redis: redis.delete(UNREAD_PREFIX + queue), None)


def deliver() -> None:
    """Send the message that has due webhooks delivered. Call after commit."""
    send("generation.deliver", expires=60)


def encode() -> None:
    """Send the message that has missing embeddings computed. Call after commit."""
    send("generation.encode", expires=3600)


def match(expires: float) -> None:
    """Send the message that has texts matched. expires: seconds after which no client waits any more."""
    send("generation.match", expires=expires)


def moved(
    jobs: Iterable[tuple[UUID, str]],
    *,
    attempts: Mapping[UUID, int] | None = None,
) -> None:
    """Notify waiting clients that these jobs (id, status) changed. Call after commit.

    attempts: the attempt of each job that goes on: clients that watch one get an event.
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
    """Publish the progress of running jobs. Returns which of them are watched."""

    def write(redis) -> Watched:
        with redis.pipeline(transaction=False) as pipe:
            for job_id in job_ids:
                pipe.set(f"{PROGRESS_PREFIX}{job_id}", percent, ex=PROGRESS_SECONDS)
            events.query_watched(pipe, job_ids)
            return events.watched(job_ids, pipe.execute()[-1])

    return attempt(write, Watched())


def progress(job_id: UUID) -> int:
    """Return the percentage of a running job that was last published; 0 if none is known."""
    value = attempt(lambda redis: redis.get(f"{PROGRESS_PREFIX}{job_id}"), None)
    percent = decoded(value) if value else 0
    return percent if isinstance(percent, int) else 0
