"""Beat's scheduler, with the real database and the real lock."""

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import celery
import pytest
from django.utils import timezone
from django_celery_beat.models import CrontabSchedule, IntervalSchedule, PeriodicTask
from structlog.testing import capture_logs

from generation.infra import beat_lock, redis_client
from generation.infra.schedule import DEFAULT, Scheduler
from tests.chaos import clock
from tests.web import ROOT, database_url, eventually

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis_server")]


def start() -> Scheduler:
    """Do what a start of beat does with the database."""
    return Scheduler(app=celery.current_app)


def named(name: str) -> PeriodicTask:
    return PeriodicTask.objects.get(name=name)


def test_the_first_start_creates_all_entries_of_the_settings(settings):
    start()

    assert set(settings.CELERY_BEAT_SCHEDULE) <= set(
        PeriodicTask.objects.values_list("name", flat=True)
    )
    row = named("sweep")
    assert row.description == DEFAULT + "every 5 seconds"
    assert row.expire_seconds == settings.SWEEP_SECONDS


def test_changes_by_people_survive_a_start():
    start()
    noon = CrontabSchedule.objects.create(hour="12", minute="0")
    PeriodicTask.objects.filter(name="clean-images").update(crontab=noon)
    PeriodicTask.objects.filter(name="consider-redistillation").update(enabled=False)
    PeriodicTask.objects.filter(name="sweep").update(expire_seconds=77, description="by hand")

    start()

    assert named("clean-images").crontab == noon
    assert not named("consider-redistillation").enabled
    assert (named("sweep").expire_seconds, named("sweep").description) == (77, "by hand")


def test_a_schedule_of_an_earlier_release_is_kept():
    """Its rows have no description."""
    start()
    noon = CrontabSchedule.objects.create(hour="12", minute="0")
    PeriodicTask.objects.update(description="", expire_seconds=None)
    PeriodicTask.objects.filter(name="clean-images").update(crontab=noon)

    start()
    start()

    assert named("clean-images").crontab == noon
    assert named("sweep").expire_seconds == 5  # set by the start, not by the earlier release


def test_entries_not_changed_by_people_follow_the_settings(monkeypatch):
    start()
    entry = dict(celery.current_app.conf.beat_schedule["sweep"], schedule=7.0)
    changed = {**celery.current_app.conf.beat_schedule, "sweep": entry}
    monkeypatch.setitem(celery.current_app.conf, "beat_schedule", changed)

    start()

    assert named("sweep").interval == IntervalSchedule.objects.get(every=7)
    assert named("sweep").description == DEFAULT + "every 7 seconds"


def test_a_deleted_entry_is_created_again_at_the_next_start():
    start()
    named("sweep").delete()

    start()

    assert named("sweep").interval.every == 5


@pytest.mark.parametrize("headers", ["[]", "null", "5", "{"])
def test_a_row_with_odd_headers_does_not_end_beat(headers):
    hourly = IntervalSchedule.objects.create(every=1, period="hours")
    PeriodicTask.objects.create(
        name="odd", task="generation.sweep", interval=hourly, headers=headers
    )
    assert_only_odd_is_skipped()


@pytest.mark.parametrize("days", [3_000_000, 10**9])
def test_a_row_with_an_interval_beyond_the_calendar_does_not_end_beat(days):
    endless = IntervalSchedule.objects.create(every=days, period="days")
    PeriodicTask.objects.create(name="odd", task="generation.sweep", interval=endless)
    assert_only_odd_is_skipped()


def test_a_crontab_without_a_next_date_does_not_end_beat():
    never = CrontabSchedule.objects.create(day_of_month="31", month_of_year="2")
    PeriodicTask.objects.create(name="odd", task="generation.sweep", crontab=never)
    assert_only_odd_is_skipped()


def assert_only_odd_is_skipped() -> None:
    with capture_logs() as lines:
        entries = start().schedule
    assert "odd" not in entries and {"sweep", "encode-missing"} <= set(entries)
    skipped = [line["entry"] for line in lines if line["event"] == "periodic_task_skipped"]
    assert set(skipped) == {"odd"}


@pytest.fixture
def beat(monkeypatch) -> Iterator[Scheduler]:
    """A beat that holds the lock, with due entries, and whose exit ends no process."""
    monkeypatch.setattr(beat_lock.atexit, "register", lambda *_: None)

    def end(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(beat_lock.os, "_exit", end)
    beat_lock.acquire()
    start()
    PeriodicTask.objects.update(last_run_at=timezone.now() - timedelta(hours=1))
    scheduler = start()
    yield scheduler
    scheduler.close()  # otherwise it would write at the end of the process


def waiting() -> int:
    return redis_client.client().llen("light")


def test_the_holder_of_the_lock_sends_due_tasks(beat):
    for _ in range(20):
        beat.tick()
    assert waiting() > 0


def test_a_clock_that_was_ahead_before_the_start_delays_no_task(beat):
    PeriodicTask.objects.update(last_run_at=timezone.now() + timedelta(hours=2))
    again = start()

    def is_sent() -> bool:
        again.tick()
        return waiting() > 0

    eventually(is_sent)
    again.close()


@pytest.mark.skipif(clock.COMPILER is None, reason="there is no C compiler")
def test_a_clock_that_was_ahead_and_is_set_back_delays_no_task(tmp_path: Path, settings):
    environment = {
        **os.environ,
        **clock.prepare(tmp_path),
        "SUPERVISOR_PROCESS_NAME": "beat",
        "DATABASE_URL": database_url(),
        "REDIS_URL": settings.REDIS_URL,
        "SWEEP_SECONDS": "1",
    }
    clock.shift(tmp_path, "beat", timedelta())
    command = [sys.executable, "-m", "celery", "-A", "project", "beat", "--pidfile="]
    beat = subprocess.Popen(command, cwd=ROOT, env=environment)
    try:
        for hours in (0, 2, 0):
            clock.shift(tmp_path, "beat", timedelta(hours=hours))
            redis_client.client().delete("light")
            eventually(lambda: waiting() > 5, seconds=120)
    finally:
        beat.terminate()
        beat.wait(60)


def test_a_beat_that_has_lost_its_lock_sends_nothing_and_ends(beat):
    redis_client.client().set(beat_lock.NAME, "another beat")
    with pytest.raises(SystemExit) as ended:
        beat.tick()
    assert (ended.value.code, waiting()) == (beat_lock.EXIT_LOST, 0)


def test_a_lock_lost_by_redis_is_acquired_again(beat):
    redis_client.client().delete(beat_lock.NAME)
    beat.tick()
    assert redis_client.client().exists(beat_lock.NAME)


def test_a_beat_that_cannot_reach_redis_waits(beat, settings, monkeypatch):
    monkeypatch.setattr(beat_lock._lock, "redis", unreachable())
    assert beat.tick() == beat_lock.POLL_SECONDS
    assert waiting() == 0


def unreachable():
    import redis

    return redis.Redis.from_url("redis://127.0.0.1:1/0", socket_connect_timeout=0.1)
