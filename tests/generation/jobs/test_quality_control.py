"""Quality control: a failing image is generated again, the best is kept, and each image records failures and tries."""

import io
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from generation.catalogue import encoding
from generation.infra import heartbeat
from generation.jobs import lifecycle as jobs
from generation.jobs import quality_control, submission
from generation.jobs.job_request import JobRequest
from generation.jobs.quality_control import BestPicture
from generation.models import Image, Job, PromptVariant, Release
from generation.releases import lifecycle as releases
from tests.factories import make_release, make_user, make_variant
from tests.generation import judges
from tests.tiny import make_tiny_release

pytestmark = pytest.mark.django_db(transaction=True)

ALWAYS, NEVER = "-1", "256"  # tags of variants: limits of the brightness


@pytest.fixture
def served(tmp_path: Path, settings, monkeypatch):
    """A toy release in service, and a judge that accepts by brightness."""
    settings.TORCH_THREADS = 1
    settings.BATCH_SIZE = 4
    settings.RESULT_JUDGE = f"{judges.__name__}.by_brightness"
    settings.JUDGED_SHARE = 0.0
    make_tiny_release(tmp_path / "tiny", name="tiny", kind="student")
    releases.activate(releases.register(tmp_path / "tiny"))
    make_variant(slug="mug", text="a green metal mug", tags=[NEVER])
    assert encoding.encode_missing() == 0
    heartbeat.stopping.clear()
    yield Release.objects.get(name="tiny")


def made(worker, *, tag: str = NEVER, tries: int | None = None, **fields) -> list[Image]:
    """Return the images of a job of the variant with this tag and this number of tries."""
    PromptVariant.objects.update(tags=[tag], max_tries=tries)
    job = submission.submit(make_user(), JobRequest(variant="mug", **fields))
    worker.run()
    job.refresh_from_db()
    assert job.status == "succeeded", job.error_detail
    return list(job.images.all())


def brightness_of(images: list[Image]) -> list[float]:
    from PIL import Image as Picture

    from generation.images import storage

    return [
        float(np.asarray(Picture.open(io.BytesIO(storage.read(i.master))))[..., :3].mean())
        for i in images
    ]


def test_without_quality_control_no_picture_is_judged(served, worker):
    (image,) = made(worker)

    assert (image.is_accepted, image.tries, image.failing) == (None, 1, [])


def test_a_picture_that_passes_is_delivered_unchanged(served, worker):
    (image,) = made(worker, tag=ALWAYS, tries=5)

    assert (image.is_accepted, image.tries, image.detector) == (True, 1, judges.NAME)
    assert image.seed == image.job.seed


def test_a_failing_picture_is_made_again_with_the_next_seed_until_it_passes(
    served, monkeypatch, worker
):
    monkeypatch.setattr(submission.secrets, "randbelow", lambda _: 100)
    levels = brightness_of([image for seed in range(100, 106) for image in made(worker, seed=seed)])
    first = levels[0]
    brighter = [offset for offset, level in enumerate(levels) if level > first]
    assert brighter, "no later seed is brighter: choose another seed"

    (image,) = made(worker, tag=f"{first + 1e-6}", tries=6)

    assert (image.is_accepted, image.tries) == (True, brighter[0] + 1)
    assert image.seed == 100 + brighter[0]


def test_if_every_try_fails_the_best_is_delivered_and_flagged(served, monkeypatch, worker):
    monkeypatch.setattr(submission.secrets, "randbelow", lambda _: 100)
    levels = brightness_of([image for seed in range(100, 104) for image in made(worker, seed=seed)])

    (image,) = made(worker, tag=NEVER, tries=4)

    assert (image.is_accepted, image.tries, image.failing) == (False, 4, ["bright"])
    assert image.seed == 100 + levels.index(max(levels))


def test_the_images_of_a_job_are_tried_separately_with_disjoint_seeds(served, worker):
    images = made(worker, tag=NEVER, tries=3, n=6)

    assert [image.tries for image in images] == [3] * 6
    assert len({image.seed for image in images}) == 6
    assert all((image.seed - image.job.seed) % 6 == image.index for image in images)


def test_a_requested_seed_is_kept_and_the_picture_flagged(served, worker):
    (image,) = made(worker, tag=NEVER, tries=5, seed=7)

    assert (image.seed, image.tries, image.is_accepted) == (7, 1, False)


def test_requesting_the_seed_of_an_improved_image_gives_the_same_picture(served, worker):
    (image,) = made(worker, tag=NEVER, tries=4)

    (again,) = made(worker, tag=NEVER, tries=4, seed=image.seed)

    assert again.job.cache == Job.Cache.HIT
    assert (again.sha256, again.tries, again.is_accepted) == (image.sha256, 1, False)


def test_an_unjudged_picture_does_not_answer_a_job_with_quality_control(served, worker):
    made(worker, seed=7)

    (image,) = made(worker, tries=1, seed=7)

    assert (image.job.cache, image.is_accepted) == (Job.Cache.MISS, False)


def test_the_variant_overrides_the_release_and_the_release_the_setting(served, settings, worker):
    settings.MAX_TRIES = 2
    assert made(worker)[0].tries == 2
    Release.objects.update(max_tries=3)
    assert made(worker)[0].tries == 3
    assert made(worker, tries=0)[0].is_accepted is None


def test_a_share_of_the_other_images_is_judged_and_all_of_a_canarys(served, settings, worker):
    settings.JUDGED_SHARE = 0.3
    counts = [image.is_accepted for image in made(worker, n=1)]
    for _ in range(29):
        counts += [image.is_accepted for image in made(worker, n=1)]
    assert 1 <= counts.count(False) <= 20 and counts.count(None) >= 5

    settings.JUDGED_SHARE = 0.0
    Release.objects.update(canary_percent=10)
    assert made(worker, n=4)[0].is_accepted is False


@pytest.mark.parametrize(("percent", "least", "most"), [(50, 400, 400), (20, 60, 140)])
def test_beside_a_canary_as_many_images_of_the_active_release_are_judged(
    served, settings, percent, least, most
):
    settings.JUDGED_SHARE = 0.05
    canary = make_release(name="canary", status="candidate")
    Release.objects.filter(pk=canary.pk).update(canary_percent=percent)
    other = make_release(name="other", kind="teacher")

    assert least <= judged(served, count=400) <= most
    assert judged(other, count=400) < 40  # of another kind
    Release.objects.update(canary_percent=0)
    assert judged(served, count=400) < 40


def judged(release: Release, *, count: int) -> int:
    """Return how many of the images of `count` jobs are judged."""
    request = SimpleNamespace(seed=0)
    pictures = [
        BestPicture(
            Job(release=release, variant=PromptVariant(tags=[NEVER])),
            0,
            SimpleNamespace(request=request, pixels=np.zeros((4, 4, 3), "uint8")),
        )
        for _ in range(count)
    ]
    quality_control.judge_rest(pictures)
    return sum(one.finding is not None for one in pictures)


@pytest.mark.parametrize("judge", ["none", "broken"])
def test_without_a_working_judge_jobs_succeed_unjudged(served, settings, judge, worker):
    settings.RESULT_JUDGE = f"{judges.__name__}.{judge}"

    (image,) = made(worker, tries=5)

    assert (image.is_accepted, image.tries) == (None, 1)


def test_a_job_that_is_canceled_between_two_tries_is_not_delivered(served, worker):
    """The picture fails; the job is canceled before the next try, which the heartbeat detects."""
    PromptVariant.objects.update(tags=[NEVER], max_tries=5)
    job = submission.submit(make_user(), JobRequest(variant="mug"))
    loaded = worker.loaded.get(served)
    generate, calls = loaded.generate, []

    def cancel_after_the_first(requests, **options):
        calls.append(len(requests))
        if len(calls) == 2:
            jobs.cancel(job.id)
            worker.leases.renew()
        return generate(requests, **options)

    loaded.generate = cancel_after_the_first
    try:
        worker.run()
    finally:
        loaded.generate = generate

    job.refresh_from_db()
    assert (job.status, len(calls)) == ("canceled", 2)
    assert not job.images.exists()
