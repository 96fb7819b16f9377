"""Celery workers while Redis answers but refuses to serve, with a Redis of this test."""

import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path

import celery
import pytest
from django.utils import timezone
from kombu import Message
from kombu.utils.imports import symbol_by_name

from generation.catalogue import encoding
from generation.infra import redis_client
from generation.infra.consumer import NO_MESSAGE
from generation.jobs import submission
from generation.jobs.job_request import JobRequest
from generation.models import Job, Worker
from generation.releases import lifecycle as releases
from tests.celery_worker import CeleryWorker, workers
from tests.factories import make_job, make_user, make_variant
from tests.redis_states import AWAY, REFUSING, RedisServer
from tests.tiny import make_tiny_release

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def own_redis(tmp_path: Path, settings, monkeypatch, request) -> Iterator[RedisServer]:
    """A Redis only for this test, which this process and its workers use. Its parameter is the password."""
    server = RedisServer(tmp_path / "redis", password=getattr(request, "param", "secret"))
    settings.REDIS_URL = server.url
    monkeypatch.setattr(redis_client, "_client", None)
    monkeypatch.setattr(redis_client, "_resume_at", 0.0)
    yield server
    server.stop()


@pytest.fixture
def start(own_redis, tmp_path: Path) -> Iterator[Callable[..., CeleryWorker]]:
    with workers(tmp_path) as start:
        yield start


def until(condition: Callable[[], object], worker: CeleryWorker, *, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert worker.poll() is None, worker.log.read_text()[-3000:]
        assert time.monotonic() < deadline, worker.log.read_text()[-3000:]
        time.sleep(0.05)


def is_canceled(job: Job) -> bool:
    return Job.objects.filter(id=job.id, status=Job.Status.CANCELED).exists()


@pytest.mark.parametrize(
    ("own_redis", "states"),
    (
        ("secret", ("read_only", "other_password")),
        pytest.param("secret", (*REFUSING, *AWAY), marks=pytest.mark.slow),
        pytest.param("", ("other_password",), marks=pytest.mark.slow, id="NOAUTH"),
    ),
    indirect=["own_redis"],
)
def test_a_worker_survives_states_of_redis_and_runs_the_waiting_tasks(own_redis, start, states):
    """Use a worker of light tasks, which has the same consumer as all: its sweeps end jobs after their deadline."""
    worker = start("light", "light", SWEEP_SECONDS="0.5")
    until(Worker.objects.exists, worker)
    until(partial(is_canceled, make_job(cancel_at=timezone.now())), worker)
    for garbage in ("no message", "{}", "[]", b"\xff"):
        own_redis.admin.lpush("light", garbage)
    for state in states:
        with getattr(own_redis, state)():
            time.sleep(2)  # so that the consumer experiences the state
            job = make_job(cancel_at=timezone.now())
            began = time.monotonic()
        until(partial(is_canceled, job), worker)
        print(f"{state}: served after {time.monotonic() - began:.1f} s")
    assert worker.poll() is None
    assert worker.log.read_text().count("worker_ready") == 1


def send_expired(own_redis: RedisServer) -> None:
    """Send a message as a host does whose clock is two hours behind."""
    app = celery.current_app
    with app.connection_for_write(own_redis.url) as connection:
        earlier = timezone.now() - timedelta(hours=2)
        app.send_task("generation.sweep", expires=earlier, connection=connection)


def test_a_message_from_a_host_whose_clock_is_behind_is_received(own_redis, start):
    worker = start("light", "light", SWEEP_SECONDS="3600")  # so that it sends none itself
    until(Worker.objects.exists, worker)
    job = make_job(cancel_at=timezone.now())
    send_expired(own_redis)
    until(partial(is_canceled, job), worker)


def test_of_several_messages_that_seem_expired_only_the_last_is_kept(own_redis):
    app = celery.current_app
    make = symbol_by_name(app.Task.Request)
    discarded: list[bool] = []

    def receive(message: Message) -> None:
        discarded.append(make(message, app=app, task=app.tasks["generation.sweep"]).revoked())

    for _ in range(3):
        send_expired(own_redis)
    with (
        app.connection_for_read(own_redis.url) as connection,
        app.amqp.TaskConsumer(
            connection, queues=[app.amqp.queues["light"]], on_message=receive, prefetch_count=1
        ),
    ):
        while len(discarded) < 3:
            connection.drain_events(timeout=10)
    assert discarded == [True, True, False]


@pytest.mark.parametrize("item", ("no message", "{}", "[]", "1", "null", b"\xff"))
def test_a_consumer_survives_an_item_that_is_no_message(own_redis, item):
    """kombu removes it from the queue and raises an error that Celery does not catch."""
    app = celery.current_app
    with app.connection_for_read(own_redis.url) as connection:
        queue = app.amqp.queues["light"].bind(connection.default_channel)
        queue.declare()
        own_redis.admin.lpush("light", item)
        survived = (*connection.connection_errors, *NO_MESSAGE)
        with (
            app.amqp.TaskConsumer(connection, queues=[queue], callbacks=[]),
            pytest.raises(survived),
        ):
            connection.drain_events(timeout=10)


@pytest.mark.slow
def test_jobs_submitted_during_an_outage_are_accepted_and_served_afterwards(
    own_redis, start, tmp_path
):
    make_tiny_release(tmp_path / "tiny", name="tiny", kind="student")
    releases.activate(releases.register(tmp_path / "tiny"))
    make_variant(slug="vase", text="a red glass vase")
    assert encoding.encode_missing() == 0
    owner = make_user()
    worker = start("generation", "generation")
    until(Worker.objects.exists, worker, seconds=180)
    for number, state in enumerate((*REFUSING, *AWAY)):
        with getattr(own_redis, state)():
            for seed in range(3):
                submission.submit(owner, JobRequest(variant="vase", seed=10 * number + seed))
                time.sleep(1)
            began = time.monotonic()
        until(lambda: not Job.objects.exclude(status="succeeded").exists(), worker)
        print(f"{state}: served after {time.monotonic() - began:.1f} s")
    assert worker.log.read_text().count("worker_ready") == 1  # the process was not restarted
