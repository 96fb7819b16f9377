"""Messages that may be lost: turns over Celery, calls, "the job moved" over pub/sub, progress. Rows are the truth."""

import logging
import time
from collections.abc import Collection, Iterable, Mapping
from uuid import UUID

import celery
import kombu.exceptions
import redis

from generation.infra import events
from generation.infra.events import CHANNEL_PREFIX as CHANNEL_PREFIX
from generation.infra.events import Event, Watched
from generation.infra.redis_client import attempt, patient_client

log = logging.getLogger(__name__)

WORK_PREFIX = "retort:work:"  # list of calls that no worker has heard yet
MOST_CALLS = 64  # more than workers: each finds what others left
AWAY_SECONDS = 0.5
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
    """There may be queued jobs: call one worker of this queue, if one has its turn. Call after commit.

    Past Celery, whose message takes longer to send and to unpack than a claim takes.
    """

    def call(redis) -> None:
        # One command, and seldom a second: somebody waits.
        if redis.lpush(WORK_PREFIX + queue, 1) > MOST_CALLS:
            redis.ltrim(WORK_PREFIX + queue, 0, MOST_CALLS - 1)

    attempt(call, None)


def await_call(queue: str, *, seconds: int) -> bool:
    """Whether somebody calls within `seconds`. While Redis is away: yes, after a moment, for nobody could be heard.

    Other calls are taken with it: whoever is called looks at the whole queue, and calls again if it leaves something.
    """
    try:
        calls = patient_client(seconds).blmpop(
            seconds, 1, WORK_PREFIX + queue, direction="LEFT", count=MOST_CALLS
        )
    except redis.RedisError:
        time.sleep(AWAY_SECONDS)
        return True
    return calls is not None


def turn(queue: str, *, workers: int = 1) -> None:
    """Have Celery give a worker of this queue its next turn, unless there is a message for each of its workers."""
    # Of a queue the Redis transport keeps a list of its name.
    if attempt(lambda redis: redis.llen(queue), 0) < workers:
        send("generation.serve", expires=60, queue=queue)


def deliver() -> None:
    """There may be webhooks to send. Call after commit."""
    send("generation.deliver", expires=60)


def encode() -> None:
    """There may be prompt variants without an embedding. Call after commit."""
    send("generation.encode", expires=3600)


def match(expires: float) -> None:
    """A question about a text waits. expires: as long as it does."""
    send("generation.match", expires=expires)


def moved(
    jobs: Iterable[tuple[UUID, str]],
    *,
    attempts: Mapping[UUID, int] | None = None,
) -> None:
    """Tell whoever waits that these jobs (id, status) changed. Call after commit.

    attempts: of those that have not ended; who watches one of them is told.
    """
    messages = list(jobs)
    going_on = attempts or {}

    def publish(redis) -> Watched:
        with redis.pipeline(transaction=False) as pipe:
            for job_id, status in messages:
                pipe.publish(f"{CHANNEL_PREFIX}{job_id}", status)
            if going_on:
                events.ask_who_is_watched(pipe, going_on)
            answers = pipe.execute()
        return events.watched(going_on, answers[-1]) if going_on else Watched()

    if messages:
        watched = attempt(publish, Watched())
        events.tell(
            Event(job_id, "status", {"status": status, "attempt": going_on[job_id]})
            for job_id, status in messages
            if job_id in watched.events
        )


def set_progress(job_ids: Collection[UUID], percent: int) -> Watched:
    """Returns which of them somebody watches."""

    def write(redis) -> Watched:
        with redis.pipeline(transaction=False) as pipe:
            for job_id in job_ids:
                pipe.set(f"{PROGRESS_PREFIX}{job_id}", percent, ex=PROGRESS_SECONDS)
            events.ask_who_is_watched(pipe, job_ids)
            return events.watched(job_ids, pipe.execute()[-1])

    return attempt(write, Watched())


def progress(job_id: UUID) -> int:
    """Per cent of a running job, as far as anybody said."""
    value = attempt(lambda redis: redis.get(f"{PROGRESS_PREFIX}{job_id}"), None)
    return int(value) if value else 0
