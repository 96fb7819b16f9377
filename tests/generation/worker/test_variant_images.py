"""Variant images: idle workers make one of each covered prompt variant, for everybody."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from generation.catalogue import encoding
from generation.catalogue import variants as catalogue
from generation.errors import StorageFailed
from generation.images import references, storage
from generation.jobs import pausing, retention, submission, variant_images
from generation.jobs.failures import Failure
from generation.jobs.job_request import JobRequest
from generation.models import Job, PromptVariant, Release, VariantImage
from generation.releases import lifecycle as releases
from generation.releases.default_release import Serving
from generation.worker import loop, stocking
from tests.factories import (
    make_embedding,
    make_quality,
    make_release,
    make_user,
    make_variant,
)
from tests.tiny import make_tiny_release

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis_server")]

TEXT, OTHER = "a red glass vase", "a blue clay bowl"


@pytest.fixture
def idle(tmp_path: Path, settings, worker, monkeypatch):
    """A worker that has served one job of a student, with two active variants and one draft."""
    settings.TORCH_THREADS, settings.STOCK = 1, 0
    monkeypatch.setattr(stocking, "LOOK_SECONDS", 0.0)
    for text in (TEXT, OTHER):
        make_variant(text=text)
    make_variant(text="a green ring", status="draft")
    activate(tmp_path, "first")
    worker.tick()
    submit()
    return worker


def activate(tmp_path: Path, name: str) -> Release:
    make_tiny_release(tmp_path / name, name=name, kind="student", seed=len(name))
    release = releases.register(tmp_path / name)
    assert encoding.encode_missing() == 0
    releases.activate(release)
    return release


def submit(text: str = TEXT, **fields) -> Job:
    return submission.submit(make_user(), JobRequest(text=text, **fields))


def shown() -> dict[str, VariantImage]:
    """The images that are shown, by the text of the variant."""
    serving = Serving.now()
    rows = {row.pk: row for row in serving.annotated(PromptVariant.objects.all())}
    found = variant_images.shown(serving, rows.values())
    return {rows[pk].text: VariantImage.objects.get(pk=image) for pk, image in found.items()}


def test_an_idle_worker_makes_one_image_of_each_active_variant(idle):
    idle.run()

    images = shown()
    assert set(images) == {TEXT, OTHER}
    assert {image.release.name for image in images.values()} == {"first"}
    assert images[TEXT].sha256 != images[OTHER].sha256
    assert not idle._stocking.make()
    names = sorted(image.file for image in images.values())
    assert all(storage.exists(name) for name in names)
    assert references.in_use(names) == set(names)  # the nightly sweep keeps them
    assert Job.objects.count() == 1


def test_waiting_jobs_come_first(idle, monkeypatch):
    order = []
    make = idle._stocking._make_of_variant

    def count_jobs(job: Job) -> None:
        order.append(Job.objects.filter(status="queued").count())
        if len(order) == 1:
            submit(OTHER)  # arrives between two images
        make(job)

    monkeypatch.setattr(idle._stocking, "_make_of_variant", count_jobs)
    idle.run()

    assert order == [0, 0]
    assert set(Job.objects.values_list("status", flat=True)) == {"succeeded"}


def test_the_next_active_release_replaces_the_images_and_their_files(idle, tmp_path):
    idle.run()
    before = {image.file for image in shown().values()}

    activate(tmp_path, "second")
    assert shown() == {}
    idle.tick()
    submit(seed=7)
    idle.run()

    after = shown()
    assert {image.release.name for image in after.values()} == {"second"} and len(after) == 2
    assert VariantImage.objects.count() == 2
    assert before.isdisjoint(image.file for image in after.values())
    assert not any(storage.exists(name) for name in before)


def test_a_changed_text_gets_another_image(idle):
    idle.run()
    before = shown()[TEXT]
    variant = PromptVariant.objects.get(text=TEXT)
    variant.text = "a red glass cup"
    catalogue.save(variant, new_revision=True)
    assert set(shown()) == {OTHER}
    assert encoding.encode_missing() == 0

    idle.run()

    after = shown()
    assert set(after) == {"a red glass cup", OTHER} and after["a red glass cup"].revision == 2
    assert not storage.exists(before.file)


def test_retention_removes_images_that_are_not_shown(idle):
    idle.run()
    first, second = shown()[TEXT], shown()[OTHER]
    PromptVariant.objects.filter(text=TEXT).update(status="archived")
    retention.sweep()
    assert VariantImage.objects.get() == second
    assert storage.exists(second.file) and not storage.exists(first.file)

    Release.objects.update(status="retired")
    retention.sweep()
    assert not VariantImage.objects.exists() and not storage.exists(second.file)


def test_no_image_is_made_if_the_setting_is_off(idle, settings):
    settings.VARIANT_IMAGES = False
    idle.run()

    assert not idle._stocking.is_wanted() and not VariantImage.objects.exists()


def test_no_image_is_made_while_the_queue_is_paused_or_after_a_failure(idle, monkeypatch, caplog):
    idle.run()
    VariantImage.objects.all().delete()
    pausing.pause("generation", by="anna")
    idle.run()
    assert not VariantImage.objects.exists()
    pausing.resume("generation")

    def broken(*_, **__):
        raise StorageFailed("No space.")

    with monkeypatch.context() as patch:
        patch.setattr(variant_images, "put", broken)
        idle.run()
    assert "image_not_stocked" in caplog.text
    assert not idle._stocking.is_wanted() and not idle._stocking.make()
    assert not VariantImage.objects.exists()


def test_a_faulty_worker_is_not_woken_to_make_images(idle, monkeypatch):
    idle.run()  # waits until the release is loaded
    woken = []
    monkeypatch.setattr(loop.notifications, "wake", woken.append)
    idle.tick()
    assert woken
    idle.health.failed(Failure("storage_failed", "No space."), lambda: None)
    woken.clear()
    idle.tick()
    assert not woken


def test_a_lost_file_is_made_again(idle):
    idle.run()
    image = shown()[TEXT]
    storage.remove(image.file)
    with pytest.raises(StorageFailed):
        variant_images.content(image)

    idle.run()

    assert storage.exists(shown()[TEXT].file)


def test_a_search_that_became_outdated_makes_no_image(idle, tmp_path):
    first = Release.objects.get(name="first")
    (job,) = (one for one in variant_images.wanted([first.pk]) if one.variant.text == TEXT)
    variant = PromptVariant.objects.get(text=TEXT)
    variant.text = "a red glass cup"
    catalogue.save(variant, new_revision=True)
    variant_images.put(job, storage.save(b"of the earlier text", "webp"))
    assert not VariantImage.objects.exists()

    idle._stocking._of_variants = [job]
    second = activate(tmp_path, "second")
    assert idle._stocking._missing_of_variants([second.pk]).release == second


def test_a_worker_waits_for_no_import_that_changes_the_variant(idle):
    first = Release.objects.get(name="first")
    job = variant_images.wanted([first.pk])[0]
    file = storage.save(b"made meanwhile", "webp")
    with transaction.atomic(), ThreadPoolExecutor(1) as other:
        PromptVariant.objects.filter(pk=job.variant.pk).update(notes="in an import")
        other.submit(put, job, file).result(timeout=60)
    assert not VariantImage.objects.exists()


def put(job: Job, file: storage.StoredFile) -> None:
    """Store the image on a connection of its own, which gives up when it waits for a lock."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("SET lock_timeout = '20s'")
        variant_images.put(job, file)
    finally:
        connection.close()


# --- searches in a catalogue ----------------------------------------------------------------------
def make_catalogue(count: int) -> Release:
    """A student that covers so many encoded variants, all with images."""
    variants = [make_variant(slug=f"prompt-{number}") for number in range(count)]
    student = make_release(name="main", covered_variants=[one.slug for one in variants])
    for one in variants:
        make_embedding(variant=one)
        VariantImage.objects.create(variant=one, release=student, revision=1, file=one.slug)
    return student


def test_when_a_specialist_becomes_the_best_it_makes_another_image():
    main = make_catalogue(2)
    assert variant_images.wanted([main.pk]) == []
    beside = make_release(name="beside", status="specialist", covered_variants=["prompt-1"])
    make_quality(main, "prompt 1", right=1)
    make_quality(beside, "prompt 1", right=4)

    (job,) = variant_images.wanted([main.pk, beside.pk])

    assert (job.variant.slug, job.release) == ("prompt-1", beside)
    assert variant_images.wanted([main.pk]) == []
    assert variant_images.remove_outdated() == 1
    assert VariantImage.objects.get().variant.slug == "prompt-0"


def rows_of(plan: dict) -> float:
    """The rows that the steps of a plan have read."""
    own = plan["Actual Rows"] * plan["Actual Loops"]
    return own + sum(rows_of(part) for part in plan.get("Plans", ()))


@pytest.mark.parametrize("call", ["wanted", "remove_outdated"])
def test_the_work_of_a_search_grows_in_proportion_to_the_catalogue(call):
    main = make_catalogue(400)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    calls = {
        "wanted": lambda: variant_images.wanted([main.pk]),
        "remove_outdated": variant_images.remove_outdated,
    }
    with CaptureQueriesContext(connection) as queries:
        assert not calls[call]()

    for query in queries.captured_queries:
        with connection.cursor() as cursor:
            cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {query['sql']}")
            (found,) = cursor.fetchone()
        (facts,) = json.loads(found) if isinstance(found, str) else found
        assert rows_of(facts["Plan"]) < 50 * 400
