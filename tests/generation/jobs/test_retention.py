"""Removal of images: with their job, by age, and files without a row. Files in use are kept."""

import os
import threading
import time
from datetime import timedelta
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from django.core.management import call_command
from django.db import connection
from django.utils import timezone

from generation.errors import JobPurged
from generation.images import storage
from generation.images import store as images
from generation.jobs import completion, idempotency, retention, retrying, submission
from generation.jobs import lifecycle as jobs
from generation.jobs.job_request import JobRequest
from generation.models import Delivery, IdempotencyKey, Image, Job, PurgedImage
from generation.webhooks import endpoints as webhooks
from tests import clocks, fake_worker
from tests.factories import (
    make_delivery,
    make_embedding,
    make_endpoint,
    make_image,
    make_job,
    make_key,
    make_release,
    make_user,
    make_variant,
)

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis_server")]


def stored_names() -> set[str]:
    return {name for part in storage.folders() for name in part}


def in_another_process(action) -> None:
    """Run the action in a thread with its own connection: for the database, another process."""

    def run() -> None:
        action()
        connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(timeout=60)
    assert not thread.is_alive()


@pytest.fixture
def variant():
    make_release()
    variant = make_variant(slug="vase", text="a red vase")
    make_embedding(variant=variant)
    return variant


def submit(**fields) -> Job:
    return submission.submit(make_user(), JobRequest(variant="vase", **{"seed": 7, **fields}))


# --- one job --------------------------------------------------------------------------------------
def test_a_purge_of_a_job_removes_rows_files_and_thumbnails():
    job = make_job(status="succeeded", n=2)
    rows = [make_image(job=job, index=index, color=(index, 9, 9)) for index in range(2)]
    for row in rows:
        images.thumbnail(row.master, row.file)
    assert len(stored_names()) == 6

    retention.purge(job.id)

    job.refresh_from_db()
    assert job.purged_at is not None and job.status == "succeeded"
    assert not Image.objects.exists()
    assert stored_names() == set()
    assert set(PurgedImage.objects.values_list("id", "job_id")) == {
        (row.id, job.id) for row in rows
    }


def test_a_purge_may_be_repeated():
    job = make_job(status="succeeded")
    make_image(job=job)

    retention.purge(job.id)
    first = Job.objects.get(id=job.id).purged_at
    retention.purge(job.id)

    assert Job.objects.get(id=job.id).purged_at == first


@pytest.mark.parametrize("status", ["queued", "running"])
def test_a_job_that_has_not_ended_is_canceled(status: str):
    job = make_job(status=status)

    retention.purge(job.id)

    job.refresh_from_db()
    assert (job.status, job.purged_at is not None) == ("canceled", True)


def test_a_result_after_a_purge_is_refused(variant):
    job = submit()
    (claimed,) = jobs.claim("worker").jobs
    retention.purge(job.id)

    assert fake_worker.finish([claimed]) == [jobs.Claim.of(claimed)]
    assert not Image.objects.exists()


def test_a_purged_job_is_not_retried():
    job = make_job(status="canceled")
    retention.purge(job.id)

    assert retrying.retry_these([job.id]) == []
    assert Job.objects.get(id=job.id).status == "canceled"


def test_a_file_that_another_job_shares_is_kept(variant):
    first, other = submit(), submit(output_format="png")
    fake_worker.make_pictures()
    other.refresh_from_db()
    assert other.cache == "shared"

    retention.purge(first.id)

    image = other.images.get()
    assert storage.exists(image.file) and storage.exists(image.master)
    assert stored_names() == {image.file, image.master}
    retention.purge(other.id)
    assert stored_names() == set()


def test_renderings_that_are_only_in_the_cache_are_removed_too(variant, monkeypatch):
    first = submit()
    fake_worker.make_pictures()

    def refuse(*arguments, **options):
        raise JobPurged  # any error after the file was made and before its row

    with monkeypatch.context() as patch:
        patch.setattr(submission.jobs, "image_rows", refuse)
        with pytest.raises(JobPurged):
            submit(output_format="jpeg")
    assert any(name.endswith(".jpeg") for name in stored_names())

    retention.purge(first.id)

    assert stored_names() == set()


def test_the_same_request_is_computed_again_after_a_purge(variant):
    submit()
    fake_worker.make_pictures()
    assert submit().cache == "hit"
    for job in Job.objects.all():
        retention.purge(job.id)

    again = submit()

    assert again.status == "queued"
    fake_worker.make_pictures()
    assert storage.exists(again.images.get().file)


def test_images_found_just_before_a_purge_are_not_used_after_it(variant, monkeypatch):
    """A request looks up images, a purge removes them, the request writes: it must not refer to removed files."""
    first = submit()
    fake_worker.make_pictures()
    found = images._cached

    def and_then_they_go(*arguments):
        answer = found(*arguments)
        assert answer
        monkeypatch.setattr(images, "_cached", found)
        in_another_process(lambda: retention.purge(first.id))
        return answer

    monkeypatch.setattr(images, "_cached", and_then_they_go)

    job = submit()

    assert (job.status, job.cache) == ("queued", "miss")


def test_files_that_a_request_found_stay_until_it_has_written(variant, monkeypatch):
    first = submit()
    fake_worker.make_pictures()
    rows = submission.jobs.image_rows

    def while_they_go(*arguments, **options):
        in_another_process(lambda: retention.purge(first.id))
        return rows(*arguments, **options)

    monkeypatch.setattr(submission.jobs, "image_rows", while_they_go)

    hit = submit()

    assert (hit.status, hit.cache) == ("succeeded", "hit")
    assert not first.images.exists()
    image = hit.images.get()
    assert storage.exists(image.file) and storage.exists(image.master)


def test_files_of_a_result_stay_while_it_is_accepted(variant, monkeypatch):
    older = submit()
    fake_worker.make_pictures()
    job = submit(n=2)  # its first image exists already
    (claimed,) = jobs.claim("worker").jobs
    result = fake_worker.result_of(claimed)
    lost = completion._lost

    def while_they_go(*arguments):
        in_another_process(lambda: retention.purge(older.id))
        return lost(*arguments)

    monkeypatch.setattr(completion, "_lost", while_they_go)

    assert completion.commit([result]) == []

    assert not older.images.exists()
    assert all(storage.exists(image.file) for image in job.images.all())


def test_a_result_whose_file_was_removed_before_it_was_accepted_is_made_again(variant):
    """The worker found the file there and did not write it; then the last image that referred to it was removed."""
    older = make_job(status="succeeded")
    make_image(job=older)
    job = submit()
    (claimed,) = jobs.claim("worker").jobs
    (key,) = images.keys(job)
    stored = images.store(key, np.full((64, 64, 3), 5, np.uint8), "webp")
    Image.objects.filter(job=older).update(file=stored.file, master=stored.master)
    retention.purge(older.id)

    assert completion.commit([completion.Result(claimed, [stored], 0.1)]) == [
        jobs.Claim.of(claimed)
    ]

    job.refresh_from_db()
    assert (job.status, job.failures) == ("queued", 0)
    assert job.attempts.get().outcome == "released"
    fake_worker.make_pictures()
    assert storage.exists(job.images.get().file)


# --- by age ---------------------------------------------------------------------------------------
def ended(days: float, *, color: int = 0, **fields) -> Job:
    at = timezone.now() - timedelta(days=days)
    job = make_job(status="succeeded", finished_at=at, seed=color, **fields)
    make_image(job=job, color=(color * 40 % 256, color, 5))
    return job


def purged() -> set:
    return set(Job.objects.filter(purged_at__isnull=False).values_list("id", flat=True))


def test_by_default_everything_is_kept():
    ended(5000)

    report = retention.sweep()

    assert (report.total, purged()) == (retention.Tally(), set())


def test_a_host_whose_clock_is_years_ahead_removes_nothing(settings, monkeypatch):
    settings.RETENTION_DAYS, settings.WEBHOOK_KEPT_DAYS = 30, 30
    ended(1)
    job = make_job()
    IdempotencyKey.objects.create(owner=job.owner, route="r", key="k", fingerprint="f", job=job)
    make_delivery(job=job, status="delivered")
    years_ahead = timezone.now() + timedelta(days=4000)
    monkeypatch.setattr(timezone, "now", lambda: years_ahead)

    report = retention.sweep()

    assert (report.total, purged(), report.idempotency_keys) == (retention.Tally(), set(), 0)
    assert webhooks.forget_old() == 0


@pytest.mark.parametrize("years", [-10, 10])
def test_what_a_host_with_a_wrong_clock_writes_is_removed_on_time(
    variant, settings, monkeypatch, years: int
):
    settings.RETENTION_DAYS, settings.WEBHOOK_KEPT_DAYS = 30, 30
    owner, endpoint = make_user(), make_endpoint(owner=make_user())
    with monkeypatch.context() as patch:
        clocks.shift(patch, timedelta(days=365 * years))
        first = idempotency.once(owner, "r", key="k", body={}, make=submit)
        twin = make_job(
            variant=variant,
            embedding=first.embedding,
            release=first.release,
            key=first.key,
            seed=7,
            created_at=first.created_at + timedelta(seconds=1),
        )
        Job.objects.update(webhook=endpoint, webhook_events=["completed"])
        fake_worker.make_pictures()
        assert submit().cache == "hit"
        jobs.cancel(submit(seed=8).id)
        submit(seed=9)
        fake_worker.fail()

    twin.refresh_from_db()
    assert (twin.status, twin.cache) == ("succeeded", "shared")
    assert Delivery.objects.count() == 2
    Delivery.objects.update(status="delivered")
    kept = retention.sweep()
    assert (kept.total.jobs, kept.idempotency_keys, webhooks.forget_old()) == (0, 0, 0)
    for job in Job.objects.all():
        assert abs(job.finished_at - timezone.now()) < timedelta(minutes=5)
        assert job.cache != "hit" or job.created_at <= job.finished_at
    assert retention.due(timezone.now() + timedelta(days=31)).count() == 5
    assert IdempotencyKey.objects.get().created_at < timezone.now() + timedelta(minutes=5)


def test_images_are_removed_a_number_of_days_after_their_job_ended(settings):
    settings.RETENTION_DAYS = 30
    old, young = ended(30.1, color=1), ended(29.9, color=2)
    failed = make_job(status="failed", finished_at=timezone.now() - timedelta(days=31))
    waiting = make_job(created_at=timezone.now() - timedelta(days=100))

    retention.sweep()

    assert purged() == {old.id, failed.id}
    assert storage.exists(young.images.get().file)
    waiting.refresh_from_db()
    assert waiting.status == "queued"


def test_a_key_has_its_own_retention(settings):
    settings.RETENTION_DAYS = 30
    keys = {days: make_key(name=str(days))[0] for days in (None, 0, 5, 60, 2**31 - 1)}
    for days, key in keys.items():
        key.retention_days = days
        key.save()
    made = {
        days: [ended(age, color=number * 10 + age, api_key=key) for age in (4, 6, 40, 70)]
        for number, (days, key) in enumerate(keys.items())
    }

    retention.sweep()

    gone = purged()
    assert {days: [job.id in gone for job in rows] for days, rows in made.items()} == {
        None: [False, False, True, True],
        0: [False, False, False, False],
        5: [False, True, True, True],
        60: [False, False, False, True],
        2**31 - 1: [False, False, False, False],
    }


def test_a_key_may_have_a_retention_while_everything_else_is_kept():
    key, _ = make_key()
    key.retention_days = 1
    key.save()
    mine, other = ended(2, color=1, api_key=key), ended(2, color=2)

    retention.sweep()

    assert purged() == {mine.id}
    assert other.images.exists()


def test_a_dry_run_reports_what_a_real_one_removes_and_changes_nothing(settings, monkeypatch):
    settings.RETENTION_DAYS = 30
    monkeypatch.setattr(retention, "BATCH", 2)
    ann, bob = make_user(username="ann"), make_user(username="bob")
    # Files shared within the jobs that are due, in different batches, and with one that is not.
    for number, owner in enumerate((ann, ann, bob, ann, bob)):
        ended(50 - number, color=number % 3, owner=owner)
    kept = ended(1, color=2, owner=bob)
    images.thumbnail(kept.images.get().master)
    images.thumbnail(ended(60, color=77, owner=bob).images.get().master)
    before = stored_names()

    dry = retention.sweep(is_dry=True)

    assert (stored_names(), purged()) == (before, set())
    seen: list[tuple[int, int]] = []
    sizes = {name: storage.size(name) for name in before}
    real = retention.sweep(on_progress=lambda done, total: seen.append((done, total)))
    assert dry == real
    assert (real.total.jobs, real.total.images) == (6, 6)
    assert {name: tally.jobs for name, tally in real.owners.items()} == {"ann": 3, "bob": 3}
    gone = before - stored_names()
    assert real.total.files == len(gone) == 7  # two colours and one with a thumbnail
    assert real.total.size_bytes == sum(sizes[name] for name in gone)
    assert seen[-1] == (6, 6)
    assert retention.sweep().total == retention.Tally()


def test_old_idempotency_keys_are_removed(settings):
    job = make_job()
    for key, hours in (("old", 49), ("young", 47)):
        IdempotencyKey.objects.create(
            owner=job.owner, route="jobs", key=key, fingerprint="f", job=job,
            created_at=timezone.now() - timedelta(hours=hours),
        )  # fmt: skip

    assert retention.sweep(is_dry=True).idempotency_keys == 1
    assert retention.sweep().idempotency_keys == 1
    assert IdempotencyKey.objects.get().key == "young"


# --- files that no row refers to ------------------------------------------------------------------
def age(name: str, days: float, settings) -> None:
    moment = time.time() - days * 24 * 3600
    os.utime(Path(settings.MEDIA_ROOT) / name, (moment, moment))


def test_unreferenced_files_are_removed_when_they_are_a_day_old(settings):
    image = make_image()
    small = images.thumbnail(image.master)
    lost, fresh = storage.save(b"lost", "webp").name, storage.save(b"fresh", "webp").name
    of_nobody = storage.thumbnail_name("images/ab/" + "ab" * 32 + ".png")
    storage.keep(of_nobody, b"small")
    partial = f"{Path(lost).parent}/.partial-xyz"
    (Path(settings.MEDIA_ROOT) / partial).write_bytes(b"half")
    for name in (image.file, image.master, small, lost, of_nobody, partial):
        age(name, 1.1, settings)
    age(fresh, 0.9, settings)
    expected = {lost, of_nobody, partial}

    dry = retention.sweep(is_dry=True)
    assert {one.name for one in dry.orphans} == expected and storage.exists(lost)
    real = retention.sweep()

    assert sorted(real.orphans, key=str) == sorted(dry.orphans, key=str)
    assert stored_names() == {image.file, image.master, small, fresh}


def test_files_of_another_database_are_kept_unless_all_files_is_given(settings):
    """Two installations share a storage by mistake, or the database was created anew."""
    image = make_image()
    names = [storage.save(str(number).encode(), "webp").name for number in range(21)]
    for name in (image.file, image.master, *names):
        age(name, 2, settings)

    report = retention.sweep()

    assert (report.orphans, report.orphans_kept) == ([], 21)
    assert storage.exists(names[0])
    out = StringIO()
    call_command("retention", stdout=out)
    assert "21 files belong to no image" in out.getvalue() and "--all-files" in out.getvalue()
    call_command("retention", "--all-files", stdout=out)
    assert stored_names() == {image.file, image.master}


def test_unreferenced_files_in_an_object_store_are_removed_too(bucket, settings):
    settings.RETENTION_DAYS = 1
    old, kept = ended(2, color=1), ended(0, color=2)
    lost = storage.save(b"lost", "webp").name
    later = timezone.now() + timedelta(days=1.5)

    dry = retention.sweep(is_dry=True, now=later)
    real = retention.sweep(now=timezone.now())

    assert lost in {one.name for one in dry.orphans}
    assert real.orphans == []  # the file is not a day old
    assert purged() == {old.id}
    retention.sweep(now=timezone.now() + timedelta(days=0.9))
    image = kept.images.get()
    assert stored_names() == {image.file, image.master, lost}


# --- the command ----------------------------------------------------------------------------------
def test_the_command_lists_what_it_would_remove_and_removes_it_without_dry_run(settings):
    settings.RETENTION_DAYS = 30
    ended(31, color=1, owner=make_user(username="ann"))
    lost = storage.save(b"lost", "webp").name
    age(lost, 2, settings)

    def run(*arguments: str) -> str:
        out = StringIO()
        call_command("retention", *arguments, stdout=out)
        return out.getvalue()

    shown = run("--dry-run")
    assert "Would delete the images of 1 job, 1 file of 4 bytes without an image" in shown
    assert f"{lost} belongs to no image, 4 bytes" in shown
    (row,) = (line.split() for line in shown.splitlines() if line.startswith("ann"))
    assert row[:4] == ["ann", "1", "1", "2"]
    assert storage.exists(lost) and not purged()

    assert "Deleted the images of 1 job," in run()
    assert len(purged()) == 1 and stored_names() == set()
