"""Rows of workers and their heartbeats."""

import time
from collections.abc import Callable, Iterator
from datetime import timedelta

import django.db
import pytest
from django.db import connection
from django.utils import timezone

from generation.infra import heartbeat
from generation.models import Worker
from tests.factories import make_release, make_worker

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_heartbeat_is_written_by_its_thread_and_the_row_is_deleted_at_the_end(monkeypatch):
    monkeypatch.setattr(heartbeat, "HEARTBEAT_SECONDS", heartbeat.TICK_SECONDS)
    heartbeat.begin("encode", device="cpu")
    before = Worker.objects.get(queue="encode").heartbeat_at
    deadline = time.monotonic() + 10
    while Worker.objects.get(queue="encode").heartbeat_at == before:
        assert time.monotonic() < deadline, "no heartbeat"
        time.sleep(0.1)

    heartbeat.end()

    assert not Worker.objects.exists()


def test_a_worker_that_starts_while_postgresql_is_read_only_writes_its_row_later(
    frequent_heartbeat,
):
    with connection.cursor() as cursor:
        cursor.execute("SET default_transaction_read_only TO on")

    heartbeat.begin("generation", device="cpu")

    until(lambda: Worker.objects.filter(queue="generation").exists())


def test_rows_of_workers_that_are_long_silent_are_deleted():
    make_worker(name="fresh")
    make_worker(name="gone", silent_seconds=timedelta(hours=2).total_seconds())

    heartbeat.forget_gone()

    assert [worker.name for worker in Worker.objects.all()] == ["fresh"]


@pytest.fixture
def frequent_heartbeat(monkeypatch) -> Iterator[None]:
    """Start a heartbeat that writes at each tick and ends with the test."""
    monkeypatch.setattr(heartbeat, "HEARTBEAT_SECONDS", heartbeat.TICK_SECONDS)
    yield
    heartbeat.end()


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_lost_row_is_restored_with_everything_that_the_process_wrote(frequent_heartbeat):
    """This happens after the restore of a backup, or on a host that was suspended for an hour."""
    release = make_release()
    heartbeat.begin("generation", device="cpu")
    heartbeat.note_loaded(release_id=release.pk, loaded=[release.pk])
    Worker.objects.all().delete()

    until(lambda: heartbeat.is_served("generation"))

    row = Worker.objects.get()
    assert (row.release_id, row.loaded, row.device) == (release.pk, [release.pk], "cpu")


def test_a_row_of_a_backup_is_brought_up_to_date(frequent_heartbeat):
    release = make_release()
    heartbeat.begin("generation", device="cpu")
    heartbeat.note_loaded(release_id=release.pk, loaded=[release.pk])
    Worker.objects.update(queue="encode", pid=1, device="old", release=None)

    until(lambda: heartbeat.is_served("generation"))

    row = Worker.objects.get()
    assert (row.queue, row.device, row.release_id) == ("generation", "cpu", release.pk)
    assert row.pid != 1


def test_a_lost_row_is_restored_although_its_release_is_gone(frequent_heartbeat):
    release = make_release()
    heartbeat.begin("generation", device="cpu")
    heartbeat.note_loaded(release_id=release.pk, loaded=[release.pk])
    Worker.objects.all().delete()
    release.delete()

    until(lambda: heartbeat.is_served("generation"))

    assert Worker.objects.get().release is None


@pytest.mark.parametrize("error", (RuntimeError("a bug"), django.db.InterfaceError("closed")))
def test_the_heartbeat_survives_any_error_of_a_tick(frequent_heartbeat, error):
    errors = [error]

    def tick() -> None:
        if errors:
            raise errors.pop()

    heartbeat.begin("generation", device="cpu", tick=tick)
    before = Worker.objects.get().heartbeat_at

    until(lambda: Worker.objects.get().heartbeat_at > before)

    assert not errors


def test_a_process_whose_ticks_fail_for_longer_than_a_lease_ends(
    frequent_heartbeat, settings, monkeypatch
):
    settings.LEASE_SECONDS = 0.1
    exits: list[int] = []
    monkeypatch.setattr(heartbeat.os, "_exit", exits.append)

    def tick() -> None:
        raise RuntimeError("a bug")

    heartbeat.begin("generation", device="cpu", tick=tick)

    until(lambda: exits)
    assert exits[0] == heartbeat.EXIT_FAILED


@pytest.mark.parametrize("hours", (-2, 2))
def test_the_clock_of_a_host_does_not_decide_whether_a_worker_lives(monkeypatch, hours):
    now = timezone.now
    monkeypatch.setattr(timezone, "now", lambda: now() + timedelta(hours=hours))
    heartbeat.begin("encode", device="cpu")
    heartbeat.forget_gone()
    monkeypatch.undo()

    assert heartbeat.is_served("encode")
    assert heartbeat.living("encode").count() == 1

    monkeypatch.setattr(timezone, "now", lambda: now() + timedelta(hours=hours))
    assert heartbeat.is_served("encode")
    heartbeat.end()
