"""`manage.py images`: a source is added, read and judged, with counts by code."""

import io
from pathlib import Path

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from distillation.detectors import registry as detectors
from distillation.models import ImageSource, Verdict
from tests.distillation.pictures import png
from tests.factories import make_release, make_variant

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def teacher():
    return make_release(name="teacher-1", kind="teacher", image_sizes=((64, 64),))


@pytest.fixture
def folder(settings) -> Path:
    place = Path(settings.DATA_DIR) / "sources" / "vases"
    place.mkdir(parents=True)
    (place / "good.png").write_bytes(png(1))
    (place / "page.png").write_bytes(b"<html>")
    return place


def images(*arguments: str) -> str:
    out = io.StringIO()
    call_command("images", *arguments, stdout=out, stderr=out)
    return out.getvalue()


def test_a_source_is_added_read_and_judged(folder, detector):
    version = detectors.activate(detectors.register(detector))
    make_variant(slug="red-vase", tags=["vase"])
    message = images(
        "add", "field", "vases", "--variants", "red-vase", "--tags", "winter, not-bowl"
    )
    assert "images ingest field" in message
    source = ImageSource.objects.get()
    assert source.tags == ["winter", "not-bowl"]
    assert "not read yet" in images("list")

    message = images("ingest")
    assert "field: 2 files, 1 taken, 0 unchanged, 1 format" in message
    assert f"{version.name}: judged 1" in message
    assert Verdict.objects.get().absent == ["bowl"]
    assert "1 example, 1 refused" in images("list")
    assert "0 taken, 2 unchanged" in images("ingest", "field")
    assert "judged 0" in images("judge", "--detector", version.name)


def test_each_folder_becomes_the_source_of_the_variant_of_its_name(folder):
    red, blue = make_variant(slug="red-vase"), make_variant(slug="blue-vase")
    for slug in ("red-vase", "blue-vase"):
        (folder / slug).mkdir()
        (folder / slug / "one.png").write_bytes(png(len(slug)))
    (folder / ".thumbnails").mkdir()
    (folder / "newest").symlink_to(folder / "red-vase")
    assert "Added 2 sources" in images("add", "shop", "vases", "--each-folder")
    assert {source.name: list(source.variants.all()) for source in ImageSource.objects.all()} == {
        "shop-red-vase": [red],
        "shop-blue-vase": [blue],
    }
    assert "shop-red-vase: 1 file, 1 taken" in images("ingest", "shop-red-vase")


def test_with_a_folder_that_no_variant_has_none_is_added(folder):
    make_variant(slug="red-vase")
    with pytest.raises(CommandError, match="contains no folder"):
        images("add", "shop", "missing", "--each-folder")
    with pytest.raises(CommandError, match="contains no folder"):
        images("add", "shop", "vases", "--each-folder")
    for slug in ("red-vase", "sofa"):
        (folder / slug).mkdir()
    with pytest.raises(CommandError, match="no prompt variant sofa"):
        images("add", "shop", "vases", "--each-folder")
    assert not ImageSource.objects.exists()


def test_variants_are_named_by_a_tag(folder):
    one, two = make_variant(tags=["vases"]), make_variant(tags=["vases"])
    make_variant(tags=["vases"], status="archived")
    images("add", "field", "vases", "--variants-tag", "vases")
    assert set(ImageSource.objects.get().variants.all()) == {one, two}


def test_people_decide_if_no_detector_fits_the_pictures(folder):
    images("add", "field", "vases")
    assert "Decide on the images" in images("ingest")


def test_a_source_that_cannot_be_read_does_not_block_the_others(folder):
    images("add", "broken", "nowhere")
    images("add", "field", "vases")
    with pytest.raises(CommandError, match="Failed: broken"):
        images("ingest")
    assert "not a folder" in images("list") and ImageSource.objects.get(name="field").ingested_at


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("add", "field", "/etc"), "IMAGE_SOURCE_ROOTS"),
        (("add", "field", "vases", "--variants", "nothing"), "nothing"),
        (("add", "field", "vases", "--variants-tag", "nothing"), "nothing"),
        (("ingest", "nobody"), "nobody"),
        (("judge", "--detector", "nobody"), "nobody"),
    ],
)
def test_invalid_arguments_are_named(folder, arguments, message):
    with pytest.raises(CommandError, match=message):
        images(*arguments)


def test_a_name_that_is_too_long_is_refused(folder):
    make_variant(slug="red-vase")
    (folder / "red-vase").mkdir()
    with pytest.raises(CommandError, match="at most 100 characters"):
        images("add", "n" * 95, "vases", "--each-folder")
    assert not ImageSource.objects.exists()
