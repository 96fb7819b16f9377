"""Distillation worker between runs: sources are read and judged before a slice."""

from pathlib import Path

import pytest
from django.utils import timezone

from distillation import tasks
from distillation.detectors import registry as detectors
from distillation.examples import lifecycle as examples
from distillation.models import Example, ImageSource, Run, Verdict
from distillation.pipeline import overrides
from distillation.runs import policy
from distillation.training import loop
from distillation.worker import process
from generation.infra import heartbeat, notifications
from tests.distillation.example_factories import make_source
from tests.distillation.factories import make_run
from tests.distillation.pictures import png
from tests.distillation.toys import SMALL
from tests.factories import make_release

pytestmark = pytest.mark.django_db


@pytest.fixture
def folder(settings) -> Path:
    make_release(name="teacher-1", kind="teacher", image_sizes=((64, 64),))
    place = Path(settings.DATA_DIR) / "sources" / "field"
    place.mkdir(parents=True)
    (place / "a.png").write_bytes(png(1))
    return place


@pytest.fixture
def sent(monkeypatch) -> list[str]:
    """Return a list that collects the messages instead of sending them."""
    found: list[str] = []
    monkeypatch.setattr(notifications, "send", lambda task, **_: found.append(task))
    return found


def test_a_source_that_waits_is_read_and_judged(folder, detector):
    detectors.activate(detectors.register(detector))
    source = make_source(asked_at=timezone.now())
    process.run()
    source.refresh_from_db()
    assert source.ingested_at and source.asked_at is None
    assert Verdict.objects.get().example == Example.objects.get()


def test_a_source_that_cannot_be_read_blocks_no_other_and_is_not_tried_forever(folder):
    broken = make_source(name="broken", url="nowhere", asked_at=timezone.now())
    make_source(asked_at=timezone.now())
    process.curate()
    broken.refresh_from_db()
    assert broken.error and Example.objects.count() == 1
    assert not ImageSource.objects.filter(asked_at__isnull=False).exists()


def test_a_run_does_not_wait_for_a_long_source_longer_than_a_slice(folder, settings):
    settings.SLICE_SECONDS = 0
    make_source(asked_at=timezone.now())
    make_run()
    process.curate()
    assert ImageSource.objects.filter(asked_at__isnull=False, ingested_at=None).exists()
    Run.objects.all().delete()
    process.curate()  # nothing else waits
    assert not ImageSource.objects.filter(asked_at__isnull=False).exists()


def test_a_worker_that_is_ending_reads_no_source(folder):
    make_source(asked_at=timezone.now())
    heartbeat.stopping.set()
    try:
        process.curate()
    finally:
        heartbeat.stopping.clear()
    assert not Example.objects.exists()


def test_all_sources_are_requested_every_night_and_the_sweep_repeats_the_message(
    sent, django_capture_on_commit_callbacks
):
    make_source()
    make_source(name="off", is_enabled=False)
    tasks.sweep()
    assert "distillation.curate" not in sent
    with django_capture_on_commit_callbacks(execute=True):
        tasks.refresh_sources()
    tasks.sweep()
    assert sent.count("distillation.curate") == 2
    assert ImageSource.objects.get(name="off").asked_at is None


def test_a_slice_ends_when_a_source_waits_and_the_run_waits_for_the_next_slice(
    teacher, detector, settings, monkeypatch
):
    settings.DISTILLATION_DETECTOR = str(detector)
    settings.SLICE_SECONDS = 0.01
    run = policy.start(recipe={"recipe": "starter-1step", **overrides.parse(SMALL)})
    source = make_source()
    seed_of = loop._seed_of

    def requesting(*arguments: int) -> int:
        examples.request_ingestion(ImageSource.objects.all())
        return seed_of(*arguments)

    monkeypatch.setattr(loop, "_seed_of", requesting)
    process.run()
    run = Run.objects.get(pk=run.pk)
    assert run.status == "queued" and run.slices.last().outcome == "over"
    process.curate()
    source.refresh_from_db()
    assert source.asked_at is None and source.error
