"""Ingestion of sources: examples, refusals, and files that are not read or decoded again."""

import os
from datetime import timedelta
from pathlib import Path

import pytest
from django.utils import timezone

from distillation.errors import DistillationRefused
from distillation.examples import decoding, ingestion
from distillation.models import Example, ImageSource
from generation.images import storage
from tests.distillation.example_factories import make_source
from tests.distillation.pictures import SIDE, as_bytes, picture, png, png_header
from tests.distillation.served import serve
from tests.factories import make_release, make_variant

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def teacher():
    return make_release(name="teacher-1", kind="teacher", image_sizes=((SIDE, SIDE),))


@pytest.fixture
def folder(settings) -> Path:
    """Return the folder of the source that `make_source` creates."""
    place = Path(settings.DATA_DIR) / "sources" / "field"
    place.mkdir(parents=True)
    return place


@pytest.fixture
def decoded(monkeypatch) -> list[bytes]:
    """Return a list that collects the decoded files."""
    seen: list[bytes] = []
    decode = decoding.decode
    monkeypatch.setattr(
        decoding,
        "decode",
        lambda content, *, side: (seen.append(content), decode(content, side=side))[1],
    )
    return seen


def ingest(source: ImageSource | None = None) -> ingestion.Report:
    return ingestion.ingest(source or make_source())


def refusals() -> dict[str, str]:
    return dict(Example.objects.values_list("location", "refusal"))


# --- results of files -----------------------------------------------------------------------------
def test_pictures_become_examples_and_other_files_are_refused_with_a_code(folder):
    (folder / "good.png").write_bytes(png(1))
    (folder / "photo.JPG").write_bytes(as_bytes(picture(2), "jpeg"))
    (folder / "zero.png").write_bytes(b"")
    (folder / "torn.png").write_bytes(png(3)[:-100])
    (folder / "bomb.png").write_bytes(png_header(50_000, 50_000))
    (folder / "page.jpg").write_bytes(b"<html><script>alert(1)</script></html>")
    (folder / "small.png").write_bytes(png(4, width=SIDE, height=20))
    with (folder / "huge.png").open("wb") as file:
        file.truncate(decoding.MAX_BYTES + 1)

    report = ingest()

    assert refusals() == {
        "good.png": "", "photo.JPG": "", "zero.png": "empty", "torn.png": "broken", "bomb.png": "too_many_pixels",
        "page.jpg": "format", "small.png": "too_small", "huge.png": "too_large",
    }  # fmt: skip
    assert (report.files, report.taken, report.read) == (8, 2, 7)
    assert "2 taken" in str(report) and "1 too_large" in str(report)
    good = Example.objects.get(location="good.png")
    assert (good.width, good.height, good.side) == (96, 80, SIDE)
    assert storage.read(good.file).startswith(b"\x89PNG")
    refused = Example.objects.exclude(refusal="")
    assert not any(row.file or row.perceptual_hash for row in refused)
    assert all(row.refusal_detail for row in refused)
    source = ImageSource.objects.get()
    assert source.ingested_at and not source.error and source.lease_expires_at is None


def test_an_unchanged_source_is_neither_read_nor_decoded_again(folder, decoded):
    (folder / "a.png").write_bytes(png(1))
    (folder / "b.png").write_bytes(b"no picture")
    (folder / "copy of a.png").write_bytes(png(1))
    first = ingest()
    assert (first.read, first.taken, first.unchanged, len(decoded)) == (3, 1, 1, 2)
    before = list(Example.objects.values())
    again = ingest()
    assert (again.files, again.read, again.unchanged, len(decoded)) == (3, 0, 3, 2)
    assert list(Example.objects.values()) == before


def test_a_touched_file_is_read_but_not_decoded(folder, decoded):
    (folder / "a.png").write_bytes(png(1))
    ingest()
    os.utime(folder / "a.png", (1, 1))
    (folder / "moved.png").write_bytes(png(1))
    report = ingest()
    assert (report.read, report.unchanged, len(decoded), Example.objects.count()) == (2, 2, 1, 1)
    assert ingest().read == 0


def test_another_picture_under_the_same_name_is_another_example(folder):
    (folder / "a.png").write_bytes(png(1))
    ingest()
    (folder / "a.png").write_bytes(png(2))
    assert ingest().taken == 1
    old, new = Example.objects.order_by("pk")
    assert (old.stamps, list(new.stamps)) == ({}, ["a.png"])
    assert not old.refusal and not new.refusal


def test_a_file_that_was_too_large_and_is_replaced_leaves_no_row_behind(folder):
    with (folder / "a.png").open("wb") as file:
        file.truncate(decoding.MAX_BYTES + 1)
    assert ingest().refused == {"too_large": 1}
    assert ingest().unchanged == 1
    (folder / "a.png").write_bytes(png(1))
    ingest()
    assert refusals() == {"a.png": ""}


def test_an_unreadable_file_is_tried_again_and_its_example_stays(folder, settings):
    settings.IMAGE_SOURCE_PRIVATE_HOSTS = True
    (folder / "a.png").write_bytes(png(1))
    (folder / "b.png").write_bytes(png(2))
    broken = {"/a.png"}
    with serve(folder, broken=broken) as url:
        source = make_source(url=f"{url}/")
        assert ingest(source).refused == {"unreadable": 1}
        assert refusals() == {"a.png": "unreadable", "b.png": ""}
        broken.clear()
        assert ingest(source).taken == 1 and refusals() == {"a.png": "", "b.png": ""}
        broken.add("/a.png")
        os.utime(folder / "a.png", (1, 1))
        assert ingest(source).refused == {"unreadable": 1}
        assert refusals() == {"a.png": "", "b.png": ""}
        broken.clear()
        assert (ingest(source).unchanged, ingest(source).read) == (2, 0)


def test_a_file_name_that_is_no_text_is_stored_escaped(folder):
    with open(os.fsencode(folder) + b"/\xff\xfe.png", "wb") as file:
        file.write(png(1))
    assert ingest().taken == 1 and ingest().read == 0
    assert list(refusals()) == ["\\udcff\\udcfe.png"]


def test_a_decision_made_during_ingestion_stays(folder):
    for number in range(2):
        (folder / f"{number}.png").write_bytes(png(number))
    ingest()
    for number in range(2):
        os.utime(folder / f"{number}.png", (1, 1))

    def decide(*_: object) -> None:
        Example.objects.update(override="rejected")

    ingestion.ingest(make_source(), on_progress=decide)
    assert set(Example.objects.values_list("override", flat=True)) == {"rejected"}


# --- copies ---------------------------------------------------------------------------------------
def test_a_picture_like_another_example_of_the_same_variants_is_refused(folder, settings):
    shared, other = make_variant(), make_variant()
    (folder / "a.png").write_bytes(png(1))
    ingest(make_source(variants=[shared]))

    copies = Path(settings.DATA_DIR) / "sources" / "copies"
    copies.mkdir()
    (copies / "again.jpg").write_bytes(as_bytes(picture(1), "jpeg", quality=70))
    (copies / "smaller.png").write_bytes(as_bytes(picture(1).resize((84, 70))))
    (copies / "new.png").write_bytes(png(2))
    same = make_source(name="copies", variants=[shared, other])
    ingest(same)
    assert {row.location: row.refusal for row in same.examples.all()} == {
        "again.jpg": "duplicate", "smaller.png": "duplicate", "new.png": "",
    }  # fmt: skip
    assert "a.png" in same.examples.get(location="again.jpg").refusal_detail

    elsewhere = make_source(name="elsewhere", url="copies", variants=[other])
    same.variants.remove(other)
    report = ingest(elsewhere)  # of its own two copies one is left
    assert (report.taken, report.refused) == (2, {"duplicate": 1})


# --- the size of the teacher ----------------------------------------------------------------------
def test_another_size_of_the_teacher_makes_other_crops_of_the_same_examples(folder, teacher):
    (folder / "a.png").write_bytes(png(1))
    (folder / "b.png").write_bytes(png(2, width=SIDE, height=SIDE))
    ingest()
    before = Example.objects.get(location="a.png")
    Example.objects.filter(pk=before.pk).update(override="rejected")

    teacher.manifest["image_sizes"] = [[SIDE + 8, SIDE + 8]]
    teacher.save()
    report = ingest()
    after = Example.objects.get(pk=before.pk)
    assert (report.taken, report.refused) == (1, {"too_small": 1})
    assert (after.side, after.override) == (SIDE + 8, "rejected") and after.file != before.file
    assert Example.objects.count() == 2


def test_without_a_teacher_nothing_is_read(folder, teacher):
    teacher.delete()
    (folder / "a.png").write_bytes(png(1))
    with pytest.raises(DistillationRefused, match="teacher"):
        ingest()
    assert "teacher" in ImageSource.objects.get().error and not Example.objects.exists()


# --- one at a time --------------------------------------------------------------------------------
def test_a_source_that_cannot_be_listed_stores_its_error_and_waits_no_more():
    source = make_source(url="nowhere", asked_at=timezone.now())
    with pytest.raises(DistillationRefused, match="not a folder"):
        ingest(source)
    source.refresh_from_db()
    assert "not a folder" in source.error
    assert (source.asked_at, source.lease_expires_at, source.ingested_at) == (None, None, None)


def test_a_source_is_read_by_one_process_unless_that_was_lost(folder):
    source = make_source(lease_expires_at=timezone.now() + timedelta(minutes=1))
    with pytest.raises(DistillationRefused, match="another process"):
        ingest(source)
    ImageSource.objects.update(lease_expires_at=timezone.now() - timedelta(seconds=1))
    assert ingest(source).files == 0


def test_a_source_that_ends_the_process_is_not_read_again_without_a_request(folder, monkeypatch):
    class Killed(BaseException):
        """Stands for the end of the process: nothing of the code that handles errors runs."""

    def kill(*_: object, **__: object) -> None:
        found.extend(ImageSource.objects.values_list("asked_at", "error"))
        raise Killed

    found: list[tuple[object, str]] = []
    source = make_source(asked_at=timezone.now())
    monkeypatch.setattr(ingestion.sources, "open_place", kill)
    with pytest.raises(Killed):
        ingest(source)
    assert found == [(None, ingestion.INTERRUPTED)]


def test_a_listing_that_was_ended_early_does_not_count_as_read(folder):
    (folder / "more").mkdir()
    (folder / "more" / "a.png").write_bytes(png(1))
    looks: list[int] = []

    def is_over() -> bool:
        looks.append(1)
        return len(looks) == 2  # before the second folder; then no longer

    source = make_source(asked_at=timezone.now())
    report = ingestion.ingest(source, is_over=is_over)
    source.refresh_from_db()
    assert (report.files, source.ingested_at) == (0, None) and source.asked_at


def test_ingestion_stops_after_a_file_when_the_worker_ends_and_the_source_keeps_waiting(folder):
    for number in range(3):
        (folder / f"{number}.png").write_bytes(png(number))
    source = make_source(asked_at=timezone.now())
    done: list[int] = []
    report = ingestion.ingest(
        source, on_progress=lambda number, _: done.append(number), is_over=lambda: bool(done)
    )
    source.refresh_from_db()
    assert (report.taken, done, source.ingested_at) == (1, [1], None) and source.asked_at
    assert ingest(source).taken == 2
    source.refresh_from_db()
    assert source.ingested_at and source.asked_at is None
