"""The slow check of stored images."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from generation.images import scrub, storage
from generation.models import Image
from tests import fake_worker
from tests.client import API
from tests.factories import DEFAULT_SLUG, make_embedding, make_release

pytestmark = pytest.mark.django_db


@pytest.fixture
def image():
    make_embedding(encoder_fingerprint=make_release().encoder_fingerprint)
    API().post("/v1/jobs", {"variant": DEFAULT_SLUG, "output_format": "webp"})
    fake_worker.make_pictures()
    return Image.objects.get()


def folder(name: str) -> str:
    return Path(name).parent.name


def test_each_folder_is_checked_within_eleven_days():
    first = datetime(2026, 1, 1, tzinfo=UTC)
    seen = {scrub.folder_at(first + timedelta(hours=hour)) for hour in range(256)}
    assert seen == {f"{number:02x}" for number in range(256)}


def test_intact_files_are_kept(image):
    report = scrub.scrub(folder(image.file))

    assert (report.unreadable, report.missing) == (0, 0)
    assert report.files >= 1
    assert storage.read(image.file)


@pytest.mark.parametrize("damage", ("empty", "same size", "removed"))
def test_a_damaged_file_is_found_and_rendered_again_from_the_master(image, settings, damage):
    path = settings.MEDIA_ROOT / image.file
    whole = path.read_bytes()
    if damage == "removed":
        path.unlink()
    else:
        path.write_bytes(b"" if damage == "empty" else bytes(len(whole)))

    report = scrub.scrub(folder(image.file))

    assert (report.missing, report.restored) == (1, 1)
    assert path.read_bytes() == whole


def test_a_damaged_master_is_removed_so_that_it_is_computed_again(image, settings):
    (settings.MEDIA_ROOT / image.master).write_bytes(b"rot")

    report = scrub.scrub(folder(image.master))

    assert report.unreadable == 1
    assert not storage.exists(image.master)


def test_a_file_that_is_being_written_is_left_alone(image, settings):
    partial = (settings.MEDIA_ROOT / image.file).parent / ".partial-x"
    partial.write_bytes(b"ha")

    scrub.scrub(folder(image.file))

    assert partial.exists()
