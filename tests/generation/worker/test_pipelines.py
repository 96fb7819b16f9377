"""Loaded pipelines: the next release is loaded while another serves; each is loaded once."""

import threading
import time
from pathlib import Path

import pytest

from generation.engine import pipeline
from generation.engine.errors import OutOfMemory
from generation.errors import ReleaseRefused
from generation.infra import heartbeat
from generation.models import Release, Worker
from generation.releases import activation, specialists
from generation.releases import lifecycle as releases
from generation.worker import pipelines
from generation.worker.pipelines import Loaded
from tests.factories import make_worker
from tests.tiny import make_tiny_release

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def rows(tmp_path: Path, settings) -> list[Release]:
    settings.TORCH_THREADS = 2
    found = []
    for number in range(3):
        make_tiny_release(tmp_path / f"tiny-{number}", name=f"tiny-{number}", kind="student")
        found.append(releases.register(tmp_path / f"tiny-{number}"))
    releases.activate(found[0])
    return found


@pytest.fixture
def loads(monkeypatch) -> list[tuple[str, str]]:
    """The (thread, release) of each load."""
    found = []
    load = pipeline.load

    def counted(folder, **options):
        # Only the thread that generates computes with several threads.
        assert options["threads"] == (1 if threading.current_thread().name == "loader" else 2)
        found.append((threading.current_thread().name, Path(folder).name))
        return load(folder, **options)

    monkeypatch.setattr(pipeline, "load", counted)
    return found


def until(condition) -> None:
    ends = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.01)


def test_a_prepared_release_is_loaded_in_another_thread_and_only_once(rows, loads):
    held = Loaded()
    held.get(rows[0])
    activation.prepare(rows[1])
    assert [release.name for release in pipelines.wanted()] == ["tiny-0", "tiny-1"]
    held.prepare(pipelines.wanted())
    assert held.get(rows[1]).manifest.name == "tiny-1"
    held.prepare(pipelines.wanted())
    assert [name for name, _ in loads] == ["MainThread", "loader"]
    assert held.ids() == [rows[0].pk, rows[1].pk]


def test_the_least_recently_used_release_is_evicted_for_a_requested_one(rows, loads, settings):
    settings.LOADED_RELEASES = 2
    held = Loaded()
    for place in (0, 1, 0, 2):
        held.get(rows[place])
    assert held.ids() == [rows[0].pk, rows[2].pk]
    assert len(loads) == 3


def test_no_wanted_release_is_evicted_for_a_preparation(rows, settings):
    settings.LOADED_RELEASES = 1
    held = Loaded()
    held.get(rows[0])
    held.prepare([rows[0], rows[1]])
    assert held.ids() == [rows[0].pk]
    held.prepare([rows[1]])
    until(lambda: held.ids() == [rows[1].pk])


def test_specialists_do_not_count_towards_the_limit_of_loaded_releases(rows, settings):
    settings.LOADED_RELEASES = 1
    specialists.activate(rows[1])
    held = Loaded()
    held.get(rows[0])
    held.prepare(pipelines.wanted())
    until(lambda: held.ids() == [rows[0].pk, rows[1].pk])
    specialists.retire(rows[1])
    held.prepare(pipelines.wanted())
    held.get(rows[2])
    assert held.ids() == [rows[2].pk]


def test_without_enough_memory_the_least_recently_used_release_is_evicted(rows, monkeypatch):
    load = pipeline.load
    held = Loaded()

    def with_room_for_two(folder, **options):
        if len(held.ids()) > 1:
            raise OutOfMemory
        return load(folder, **options)

    monkeypatch.setattr(pipeline, "load", with_room_for_two)
    for place in (0, 1, 0, 2):
        held.get(rows[place])
    assert held.ids() == [rows[0].pk, rows[2].pk]


def test_a_release_that_cannot_be_loaded_is_tried_once_and_raises_when_requested(rows, loads):
    (Path(rows[1].path) / "unet/config.json").unlink()
    held = Loaded()
    for _ in range(3):
        held.prepare([rows[1]])
        held._wait_for(None)
    assert len(loads) == 1 and held.ids() == []
    with pytest.raises(Exception, match=r"config\.json"):
        held.get(rows[1])


# --- activation -----------------------------------------------------------------------------------
def test_a_release_is_activated_when_the_workers_have_loaded_it(rows, settings, worker):
    """The heartbeat thread of the worker prepares the release and records that in its row."""
    settings.WORKER_NAME = "worker-1"
    heartbeat.stopping.clear()
    worker.begin()
    try:
        assert Worker.objects.get(name="worker-1").loaded == [rows[0].pk]
        assert activation.activate(rows[1]).status == "active"
        assert Worker.objects.get(name="worker-1").loaded == [rows[0].pk, rows[1].pk]
        assert releases.rollback("student") == rows[0]
    finally:
        heartbeat.end()


def test_a_worker_that_is_never_ready_delays_an_activation_but_does_not_prevent_it(
    rows, monkeypatch
):
    monkeypatch.setattr(activation, "PATIENCE_SECONDS", 0.5)
    make_worker(name="slow")
    started = time.monotonic()
    assert activation.activate(rows[1]).status == "active"
    assert time.monotonic() - started > 0.5


def test_damaged_files_are_refused_before_waiting_for_workers(rows):
    make_worker(name="slow")
    (Path(rows[1].path) / "unet/config.json").unlink()
    with pytest.raises(ReleaseRefused):
        activation.activate(rows[1])
    assert Release.objects.get(name="tiny-0").status == "active"
