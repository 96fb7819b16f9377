"""Stock: idle workers make images ahead, and each answers one request without a seed at once."""

import threading
from datetime import timedelta
from pathlib import Path

import pytest
from django.db import connection
from django.utils import timezone

from generation.catalogue import encoding
from generation.errors import QuotaExceeded, StorageFailed
from generation.images import references, storage
from generation.infra import gauges, metrics
from generation.jobs import pausing, retention, stock, submission
from generation.jobs.job_request import JobRequest
from generation.models import Image, Job, OwnerLimits, Release, StockedImage
from generation.releases import lifecycle as releases
from tests import clocks
from tests.factories import make_job, make_user, make_variant
from tests.tiny import make_tiny_release

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis_server")]

TEXT, OTHER = "a red glass vase", "a blue clay bowl"


@pytest.fixture
def stocked(tmp_path: Path, settings, worker):
    """A worker whose stock is full for a variant that was requested often, and empty for another one."""
    settings.TORCH_THREADS, settings.STOCK, settings.BATCH_SIZE = 1, 2, 4
    make_tiny_release(tmp_path / "tiny", name="tiny", kind="student")
    releases.activate(releases.register(tmp_path / "tiny"))
    often, _ = (make_variant(text=text) for text in (TEXT, OTHER))
    assert encoding.encode_missing() == 0
    worker.tick()  # it reads which releases are in service
    for _ in range(stock.OFTEN):
        make_job(variant=often, release=Release.objects.get(), status=Job.Status.SUCCEEDED)
    submit(OTHER, seed=1)  # for which the worker loads the release
    worker.run()
    return worker


def submit(text: str = TEXT, **fields) -> Job:
    return submission.submit(make_user(), JobRequest(text=text, **fields))


def names() -> set[str]:
    return {name for row in StockedImage.objects.all() for name in (row.file, row.master)}


def test_an_idle_worker_stocks_what_is_requested_often(stocked):
    rows = StockedImage.objects.all()

    assert [row.variant.text for row in rows] == [TEXT, TEXT]
    assert not stocked._stocking.is_wanted()
    assert references.in_use(sorted(names())) == names()  # the nightly sweep keeps them
    assert sum(row.size_bytes for row in rows) == sum(storage.size(name) for name in names())
    shown = {family.name: family.samples for family in gauges.collect()}
    assert [sample.value for sample in shown["retort_stocked_images"]] == [2]


def test_an_image_that_a_host_with_a_wrong_clock_stocked_is_given(stocked, monkeypatch):
    StockedImage.objects.all().delete()
    with monkeypatch.context() as patch:
        clocks.shift(patch, timedelta(days=-3))
        stocked._stocking.make()

    assert submit().cache == "hit"


def test_a_request_without_a_seed_gets_an_image_of_its_own_at_once(stocked):
    seeds = {row.image["seed"] for row in StockedImage.objects.all()}

    got, again, third = submit(), submit(), submit()

    assert [job.status for job in (got, again, third)] == ["succeeded", "succeeded", "queued"]
    assert {got.seed, again.seed} == seeds and got.cache == "hit"
    image = got.images.get()
    assert (image.seed, image.index) == (got.seed, 0) and storage.exists(image.file)
    assert not StockedImage.objects.exists() and stocked._stocking.is_wanted()
    metrics.flush()  # a worker of this process may have buffered the metrics
    counted = {family.name: family.samples for family in metrics.recorded()}["retort_stock"]
    assert {sample.labels["outcome"]: sample.value for sample in counted} == {"made": 2, "given": 2}
    # From now on it is an image like any other.
    repeated = submit(seed=got.seed)
    assert (repeated.cache, repeated.key) == ("hit", got.key)
    assert repeated.images.get().sha256 == image.sha256


def test_images_that_are_not_in_stock_are_generated(stocked, settings):
    for parameters in ({"n": 2}, {"metadata": True}, {"output_format": "png"}, {"seed": 77}):
        assert submit(**parameters).status == "queued"
    assert submit(OTHER).status == "queued"
    settings.STOCK = 0
    assert submit().status == "queued"
    assert StockedImage.objects.count() == 2


def test_stock_of_another_version_is_not_used(stocked):
    for row in StockedImage.objects.all():
        row.image["of_the_next_version"] = 1
        row.save()
    assert submit().status == "queued"


def test_concurrent_requests_never_get_the_same_image(stocked):
    found, ready = [], threading.Barrier(6)

    def submit_when_ready() -> None:
        ready.wait()
        found.append(submit())
        connection.close()

    threads = [threading.Thread(target=submit_when_ready) for _ in range(6)]
    make_user()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    given = [job.seed for job in found if job.status == "succeeded"]
    assert len(found) == 6 and len(given) == len(set(given)) == 2


def test_a_refused_request_takes_nothing_from_the_stock(stocked):
    OwnerLimits.objects.create(owner=make_user(), images_per_day=0)

    with pytest.raises(QuotaExceeded):
        submit()

    assert StockedImage.objects.count() == 2


def test_an_image_whose_file_is_gone_is_generated_again(stocked):
    for name in names():
        storage.remove(name)

    job = submit()
    stocked.run()

    job.refresh_from_db()
    assert (job.status, job.cache) == ("succeeded", "miss")


def test_old_stock_and_stock_of_releases_out_of_service_is_removed_with_its_files(
    stocked, settings
):
    old, young = StockedImage.objects.order_by("pk")
    StockedImage.objects.filter(pk=old.pk).update(created_at=timezone.now() - 2 * stock.KEPT)
    retention.sweep()
    assert StockedImage.objects.get() == young
    assert not storage.exists(old.file) and storage.exists(young.file)

    Release.objects.update(status="retired")
    retention.sweep()
    assert not StockedImage.objects.exists() and not storage.exists(young.master)
    assert storage.exists(Image.objects.get().file)


def test_nothing_is_stocked_while_the_queue_is_paused_beyond_a_size_or_for_old_requests(
    stocked, monkeypatch
):
    StockedImage.objects.first().delete()
    with monkeypatch.context() as patch:
        patch.setattr(stock, "MAX_BYTES", 1)
        assert not stocked._stocking.is_wanted()
    pausing.pause("generation", by="anna")
    assert not stocked._stocking.is_wanted()
    pausing.resume("generation")
    assert stocked._stocking.is_wanted()

    Job.objects.update(created_at=timezone.now() - timedelta(days=3))

    assert not stocked._stocking.is_wanted()


def test_after_a_failed_image_the_worker_pauses_its_stocking(stocked, monkeypatch, caplog):
    StockedImage.objects.all().delete()

    def broken(*_, **__):
        raise StorageFailed("No space.")

    with monkeypatch.context() as patch:
        patch.setattr(storage, "save", broken)
        stocked.run()

    assert not stocked._stocking.is_wanted() and not StockedImage.objects.exists()
    assert "image_not_stocked" in caplog.text and not stocked.health.is_good
