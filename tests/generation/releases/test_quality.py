"""Quality of a release at each prompt: the sums over evaluations and judged pictures of jobs."""

from datetime import timedelta

import pytest
from django.utils import timezone

from generation.catalogue.standing import Overview, Standing
from generation.models import Image, Job, PromptVariant, Quality, Release
from generation.releases import default_release, quality
from generation.releases.default_release import Serving
from generation.releases.quality import Counts
from tests.factories import make_image, make_job, make_quality, make_release, make_variant

pytestmark = pytest.mark.django_db


def judged(
    release: Release, variant: PromptVariant, *, is_accepted: bool | None, **fields
) -> Image:
    """Return an image of a job with this verdict."""
    job = fields.pop("job", None) or make_job(variant=variant, release=release, status="succeeded")
    image = make_image(job=job)
    Image.objects.filter(pk=image.pk).update(is_accepted=is_accepted, **fields)
    return image


def counts(release: Release) -> dict[str, tuple[int, int, int, int]]:
    fields = ("evaluated_right", "evaluated", "judged_right", "judged")
    return {
        row.normalized_text: tuple(getattr(row, field) for field in fields)
        for row in Quality.objects.filter(release=release)
    }


def test_each_try_of_recent_jobs_counts_and_counting_again_changes_nothing() -> None:
    release, vase = make_release(), make_variant(text="a red vase")
    judged(release, vase, is_accepted=True)
    judged(release, vase, is_accepted=True, tries=3)
    judged(release, vase, is_accepted=False, tries=2)
    judged(release, vase, is_accepted=None)

    assert quality.count_jobs() == 1
    assert counts(release) == {"a red vase": (0, 0, 2, 6)}
    assert quality.count_jobs() == 0


def test_old_pictures_reused_pictures_and_those_of_an_earlier_text_do_not_count() -> None:
    release, vase = make_release(), make_variant(text="a red vase")
    long_ago = timezone.now() - timedelta(days=quality.RECENT_DAYS + 1)
    judged(release, vase, is_accepted=True, created_at=long_ago)
    hit = make_job(variant=vase, release=release, status="succeeded", cache=Job.Cache.HIT)
    judged(release, vase, is_accepted=True, job=hit)
    mug = make_variant(text="a mug")
    judged(release, mug, is_accepted=True)
    PromptVariant.objects.filter(pk=mug.pk).update(revision=2)

    assert quality.count_jobs() == 0
    assert counts(release) == {}


def test_pictures_that_are_no_longer_recent_are_subtracted_and_the_evaluation_stays() -> None:
    release, vase = make_release(), make_variant(text="a red vase")
    quality.record_evaluation(release, {"a red vase": Counts(3, 4), "a mug": Counts(4, 4)})
    image = judged(release, vase, is_accepted=False)
    quality.count_jobs()
    assert counts(release)["a red vase"] == (3, 4, 0, 1)

    image.delete()
    assert quality.count_jobs() == 1
    assert counts(release) == {"a red vase": (3, 4, 0, 0), "a mug": (4, 4, 0, 0)}


def test_a_later_evaluation_replaces_the_earlier_one_and_keeps_what_jobs_counted() -> None:
    release = make_release()
    make_quality(release, "a red vase", 1, judged=8, judged_right=2)

    quality.record_evaluation(release, {"a red vase": Counts(7, 8)})

    assert counts(release) == {"a red vase": (7, 8, 2, 8)}
    found = quality.of(release, ["a red vase", "a mug"])["a red vase"]
    assert found.flagged == 6
    share = found.share
    assert (share.count, share.total) == (9, 16)
    assert share.interval == pytest.approx((0.332, 0.769), abs=0.001)


def test_a_floor_of_its_own_overrides_the_releases_and_the_settings(settings) -> None:
    settings.QUALITY_FLOOR = 0.2
    release, vase = make_release(), make_variant(text="a red vase")
    assert quality.floor(vase, release) == 0.2
    release.quality_floor = 0.4
    assert quality.floor(vase, release) == 0.4
    vase.quality_floor = 0.0
    assert quality.floor(vase, release) == 0.0
    assert quality.is_weak(0.3, 0.4) and not quality.is_weak(None, 0.4)


def test_variants_are_shown_as_weak_by_their_own_floor(settings) -> None:
    """The student makes three of four pictures of each right."""
    settings.QUALITY_FLOOR = 0.5
    release = make_release()
    for slug, floor in (("vase", 0.8), ("bowl", None), ("mug", 0.0)):
        make_quality(release, make_variant(slug=slug, quality_floor=floor).normalized_text, 3)
    rows = Serving.now().annotated(PromptVariant.objects.all())
    assert [row.slug for row in rows.filter(default_release.hard())] == ["vase"]
    assert {row.slug: row.floor for row in rows} == {"vase": 0.8, "bowl": 0.5, "mug": 0.0}
    overview = Overview.now()
    assert (overview.counts[Standing.HARD], overview.counts[Standing.WEAK]) == (1, 1)
