"""Existing images: metadata stays with its job, and thumbnails are made once."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

from generation.errors import StorageFailed
from generation.images import cache, storage
from generation.images import store as images
from generation.jobs import lifecycle as jobs
from generation.jobs import submission
from generation.jobs.job_request import JobRequest
from generation.models import Job
from tests import fake_worker
from tests.factories import (
    make_embedding,
    make_image,
    make_job,
    make_release,
    make_user,
    make_variant,
)

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis_server")]

FORMATS = ("webp", "png", "jpeg")


@pytest.fixture(autouse=True)
def variant():
    make_release()
    variant = make_variant(slug="vase", text="a red vase")
    make_embedding(variant=variant)
    return variant


def submit(**fields) -> Job:
    return submission.submit(make_user(), JobRequest(variant="vase", **{"seed": 7, **fields}))


def finish() -> Job:
    (job,) = jobs.claim("worker").jobs
    assert fake_worker.finish([job]) == []
    return Job.objects.get(id=job.id)


def metadata_of(file: str) -> dict | None:
    """Return the metadata in a stored file."""
    with Picture.open(io.BytesIO(storage.read(file))) as picture:
        text = picture.info.get("Description") or picture.getexif().get(0x010E)
        is_bare = not picture.getexif() and not set(picture.info) & {"exif", "xmp", "Software"}
    assert (text is None) == is_bare
    return json.loads(text) if text else None


def pixels(file: str) -> np.ndarray:
    return np.asarray(Picture.open(io.BytesIO(storage.read(file))).convert("RGB"))


@pytest.mark.parametrize("output_format", FORMATS)
def test_requested_metadata_describes_the_image_and_not_its_owner(output_format: str):
    submit(metadata=True, output_format=output_format, n=2)

    job = finish()

    first, second = job.images.all()
    assert metadata_of(first.file) == {
        "model": "student-1",
        "manifest_sha256": job.release.manifest_sha256,
        "variant": "vase",
        "text": "a red vase",
        "seed": 7,
        "size": "64x64",
        "num_inference_steps": 4,
        "job": str(job.id),
        "created_at": job.created_at.isoformat(),
    }
    assert metadata_of(second.file)["seed"] == 8
    assert first.has_metadata and metadata_of(first.master) is None


@pytest.mark.parametrize("output_format", FORMATS)
def test_a_file_has_no_metadata_unless_requested(output_format: str):
    submit(output_format=output_format)

    image = finish().images.get()

    assert metadata_of(image.file) is None and not image.has_metadata


@pytest.mark.parametrize("is_cached", [True, False])
@pytest.mark.parametrize("output_format", FORMATS)
def test_a_job_without_metadata_gets_the_same_pixels_without_it(
    output_format: str, is_cached: bool, redis_server
):
    submit(metadata=True, output_format=output_format)
    with_metadata = finish().images.get()
    if not is_cached:
        redis_server.flushdb()

    plain = submit(output_format=output_format)

    image = plain.images.get()
    assert plain.cache == "hit"
    assert metadata_of(image.file) is None and not image.has_metadata
    assert np.array_equal(pixels(image.file), pixels(with_metadata.file))


@pytest.mark.parametrize("is_cached", [True, False])
@pytest.mark.parametrize("output_format", FORMATS)
def test_a_job_with_metadata_gets_its_own_file_from_stored_pixels(
    output_format: str, is_cached: bool, redis_server
):
    submit(output_format=output_format, n=2)
    finish()
    if not is_cached:
        redis_server.flushdb()

    first, second = (submit(metadata=True, output_format=output_format, n=2) for _ in range(2))

    for job in (first, second):
        assert job.cache == "hit"
        rows = list(job.images.all())
        assert [metadata_of(row.file)["job"] for row in rows] == [str(job.id)] * 2
        assert [metadata_of(row.file)["seed"] for row in rows] == [7, 8]
    again = submit(output_format=output_format, n=2)
    assert [metadata_of(row.file) for row in again.images.all()] == [None, None]


def test_jobs_answered_by_an_identical_one_get_the_metadata_that_they_requested():
    submitted = [submit(metadata=True), submit(), submit(metadata=True, output_format="png")]

    finish()

    for job in submitted:
        job.refresh_from_db()
        image = job.images.get()
        assert (job.status, image.has_metadata) == ("succeeded", job.has_metadata)
        assert (metadata_of(image.file) or {}).get("job") == (
            str(job.id) if job.has_metadata else None
        )
    assert {job.cache for job in submitted} == {"miss", "shared"}


def test_a_worker_that_finds_the_images_of_a_job_makes_its_own_file():
    submit()
    finish()
    job = make_job(seed=7, variant=Job.objects.get().variant, has_metadata=True)

    (image,) = images.find_rows([job])[job.id]

    assert metadata_of(image.file)["job"] == str(job.id)


def test_files_with_metadata_are_not_in_the_cache():
    submit(metadata=True)
    job = finish()

    (key,) = images.keys(job)
    assert cache.get([f"{key}.webp", f"{key}.png"]) == {}


# --- thumbnails -----------------------------------------------------------------------------------
def test_a_thumbnail_is_made_once_for_all_formats(settings):
    image = make_image(job=make_job(status="succeeded", width=512, height=256))

    name = images.thumbnail(image.master, image.file)
    made = (Path(settings.MEDIA_ROOT) / name).stat().st_mtime_ns

    assert pixels(name).shape == (128, 256, 3)
    storage.remove(image.master)
    storage.remove(image.file)
    assert images.thumbnail(image.master, image.file) == name
    assert (Path(settings.MEDIA_ROOT) / name).stat().st_mtime_ns == made


def test_without_the_master_a_thumbnail_is_made_from_the_file():
    image = make_image()
    storage.remove(image.master)

    assert pixels(images.thumbnail(image.master, image.file)).shape == (64, 64, 3)


def test_an_empty_thumbnail_of_a_crash_is_made_again(settings):
    image = make_image()
    name = images.thumbnail(image.master)
    (Path(settings.MEDIA_ROOT) / name).write_bytes(b"")

    assert pixels(images.thumbnail(image.master)).shape == (64, 64, 3)


def test_a_thumbnail_is_made_from_the_file_if_the_master_is_damaged(settings):
    image = make_image()
    (Path(settings.MEDIA_ROOT) / image.master).write_bytes(b"rot")

    name = images.thumbnail(image.master, image.file)

    assert pixels(name).shape == (64, 64, 3)


def test_a_missing_or_invalid_file_has_no_thumbnail(settings):
    image = make_image()
    with pytest.raises(StorageFailed, match="is not a valid image"):
        images.thumbnail(storage.save(b"no picture", "png").name)

    storage.remove(image.master)
    with pytest.raises(StorageFailed, match="is missing"):
        images.thumbnail(image.master)
