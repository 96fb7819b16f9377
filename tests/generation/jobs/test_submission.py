"""Submission: refusals, what a job records, and requests that need no computation."""

from datetime import timedelta

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from generation.errors import (
    InvalidRequest,
    QuotaExceeded,
    ReleaseNotAvailable,
    VariantNotCovered,
    VariantNotEncoded,
    VariantNotFound,
)
from generation.jobs import lifecycle as jobs
from generation.jobs import submission
from generation.jobs.job_request import JobRequest
from generation.models import Job, PromptVariant, Release
from tests import clocks, fake_worker
from tests.factories import cover, make_embedding, make_key, make_release, make_user, make_variant

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def owner():
    make_release()
    make_embedding(variant=make_variant(slug="vase", text="a red glass vase on a wooden table"))
    return make_user()


def test_a_variant_or_its_text_in_any_spelling_makes_the_same_job(owner):
    by_slug = submission.submit(owner, JobRequest(variant="vase", seed=7))
    by_text = submission.submit(
        owner, JobRequest(text="  A red GLASS vase on a wooden   table ", seed=7)
    )

    assert (by_slug.status, by_slug.variant_id) == ("queued", by_text.variant_id)
    assert by_slug.key == by_text.key


@pytest.mark.parametrize(
    "fields", [{}, {"seed": 1}, {"seed": 1, "metadata": True}, {"cancel_after": 600}]
)
def test_jobs_are_claimed_in_the_order_of_their_submission_by_hosts_whose_clocks_differ(
    owner, settings, monkeypatch, fields: dict
):
    settings.BATCH_SIZE = 1
    submitted = []
    for hours in (1, 0, -1):
        with monkeypatch.context() as patch:
            clocks.shift(patch, timedelta(hours=hours))
            submitted.append(submission.submit(owner, JobRequest(variant="vase", **fields)))

    claimed = [jobs.claim("worker-1").jobs[0].id for _ in range(1 if "seed" in fields else 3)]

    assert claimed == [job.id for job in submitted][: len(claimed)]
    for job in submitted:
        assert job.created_at == Job.objects.get(id=job.id).created_at
        assert abs(job.created_at - timezone.now()) < timedelta(minutes=30)


def test_without_a_seed_a_new_one_is_stored(owner):
    seeds = {submission.submit(owner, JobRequest(variant="vase")).seed for _ in range(5)}

    assert len(seeds) == 5


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({}, InvalidRequest, "exactly one of variant and text"),
        ({"variant": "vase", "text": "x"}, InvalidRequest, "exactly one of variant and text"),
        ({"variant": "nothing"}, VariantNotFound, "nothing"),
        ({"text": "a picture nobody wrote"}, VariantNotFound, "a picture nobody wrote"),
        ({"variant": "vase", "n": 0}, InvalidRequest, "n must be from 1 to 10"),
        ({"variant": "vase", "n": 11}, InvalidRequest, "n must be from 1 to 10"),
        ({"variant": "vase", "seed": -1}, InvalidRequest, "seed must be from 0"),
        ({"variant": "vase", "seed": 2**32}, InvalidRequest, "seed must be from 0"),
        ({"variant": "vase", "size": "100x100"}, InvalidRequest, "size must be one of 64x64"),
        ({"variant": "vase", "size": "large"}, InvalidRequest, "size must be one of 64x64"),
        ({"variant": "vase", "output_format": "gif"}, InvalidRequest, "webp, png, jpeg"),
        ({"variant": "vase", "model": "nothing"}, ReleaseNotAvailable, "nothing"),
    ],
)
def test_an_invalid_request_is_refused_with_advice(owner, fields, error, words):
    with pytest.raises(error, match=words):
        submission.submit(owner, JobRequest(**fields))
    assert not Job.objects.exists()


def test_a_variant_without_an_embedding_of_the_releases_encoder_is_refused(owner):
    make_variant(slug="new", text="something new")
    make_release(name="foreign", encoder_fingerprint="f" * 64)

    with pytest.raises(VariantNotEncoded):
        submission.submit(owner, JobRequest(variant="new"))
    with pytest.raises(VariantNotEncoded):
        submission.submit(owner, JobRequest(variant="vase", model="foreign"))


def test_a_release_refuses_a_variant_that_it_was_not_made_for(owner):
    make_release(name="narrow", covered_variants=["bowl"])

    with pytest.raises(VariantNotCovered, match="narrow"):
        submission.submit(owner, JobRequest(variant="vase", model="narrow"))


def test_without_a_model_the_student_serves_what_it_covers_and_the_teacher_the_rest(owner):
    teacher = make_release(name="teacher-1", kind="teacher")
    make_embedding(variant=make_variant(slug="new", text="something new"))
    student = Release.objects.get(kind="student")
    assert (
        submission.submit(owner, JobRequest(variant="new")).release == student
    )  # the teacher covers everything
    cover(student, {"vase": ""})

    assert submission.submit(owner, JobRequest(variant="vase")).release == student
    assert submission.submit(owner, JobRequest(variant="new")).release == teacher
    with pytest.raises(VariantNotCovered, match="covers 1 prompt variant, but not new"):
        submission.submit(owner, JobRequest(variant="new", model="student"))


def test_a_variant_that_no_active_release_covers_is_refused(owner):
    cover(make_release(name="student-1"), {"bowl": ""})

    with pytest.raises(VariantNotCovered, match="student-1"):
        submission.submit(owner, JobRequest(variant="vase"))
    assert not Job.objects.exists()


def test_a_repeat_succeeds_at_once_with_the_same_file(owner, redis_server):
    first = submission.submit(owner, JobRequest(variant="vase", seed=7, n=2))
    fake_worker.make_pictures()

    repeat = submission.submit(owner, JobRequest(variant="vase", seed=7, n=2))

    assert (repeat.status, repeat.cache, repeat.attempt) == ("succeeded", "hit", 0)
    assert [i.sha256 for i in repeat.images.all()] == [i.sha256 for i in first.images.all()]


def test_a_repeat_in_another_format_is_a_rendering_of_the_same_image(owner, redis_server):
    submission.submit(owner, JobRequest(variant="vase", seed=7))
    fake_worker.make_pictures()

    repeat = submission.submit(owner, JobRequest(variant="vase", seed=7, output_format="jpeg"))

    assert (repeat.status, repeat.images.get().format) == ("succeeded", "jpeg")


def test_without_a_cache_entry_a_repeat_is_answered_from_postgresql(owner, redis_server):
    submission.submit(owner, JobRequest(variant="vase", seed=7))
    fake_worker.make_pictures()
    redis_server.flushdb()

    assert submission.submit(owner, JobRequest(variant="vase", seed=7)).cache == "hit"


def test_an_image_whose_file_is_gone_is_computed_again(owner, redis_server, settings):
    first = submission.submit(owner, JobRequest(variant="vase", seed=7))
    fake_worker.make_pictures()
    image = first.images.get()
    for name in (image.file, image.master):
        (settings.MEDIA_ROOT / name).unlink()

    repeat = submission.submit(owner, JobRequest(variant="vase", seed=7))

    assert repeat.status == "queued"
    fake_worker.make_pictures()
    assert (settings.MEDIA_ROOT / image.file).is_file()


def test_an_image_whose_master_is_damaged_is_computed_again(owner, redis_server, settings):
    first = submission.submit(owner, JobRequest(variant="vase", seed=7))
    fake_worker.make_pictures()
    (settings.MEDIA_ROOT / first.images.get().master).write_bytes(b"no picture")

    assert (
        submission.submit(owner, JobRequest(variant="vase", seed=7, output_format="jpeg")).status
        == "queued"
    )


def test_another_seed_size_or_release_is_another_image(owner):
    make_release(name="other")
    jobs_made = [
        submission.submit(owner, JobRequest(variant="vase", seed=1)),
        submission.submit(owner, JobRequest(variant="vase", seed=2)),
        submission.submit(owner, JobRequest(variant="vase", seed=1, n=2)),
        submission.submit(owner, JobRequest(variant="vase", seed=1, model="other")),
    ]

    assert len({job.key for job in jobs_made}) == 4


# --- requests use no cached state -------------------------------------------------------------------------------
def queries(work) -> list[str]:
    with CaptureQueriesContext(connection) as sent:
        work()
    return [query["sql"] for query in sent]


def test_a_request_is_resolved_by_one_query_and_its_job_inserted_by_another(owner):
    submission.submit(
        owner, JobRequest(variant="vase")
    )  # the count of waiting jobs is cached for a moment

    sent = queries(lambda: submission.submit(owner, JobRequest(variant="vase")))

    assert [sql.split()[0] for sql in sent] == ["SELECT", "INSERT"], sent


def test_a_changed_text_of_a_variant_applies_at_once(owner):
    submission.submit(owner, JobRequest(variant="vase"))
    variant = PromptVariant.objects.get(slug="vase")
    variant.text, variant.normalized_text, variant.revision = "a blue vase", "a blue vase", 2
    variant.save()
    with pytest.raises(VariantNotEncoded):
        submission.submit(owner, JobRequest(variant="vase"))
    with pytest.raises(VariantNotFound):
        submission.submit(owner, JobRequest(text="a red glass vase on a wooden table", match=False))
    embedding = make_embedding(variant=variant)

    assert submission.submit(owner, JobRequest(variant="vase")).embedding == embedding


def test_an_archived_variant_is_refused_at_once(owner):
    submission.submit(owner, JobRequest(variant="vase"))
    PromptVariant.objects.update(status=PromptVariant.Status.ARCHIVED)

    with pytest.raises(VariantNotFound, match="archived"):
        submission.submit(owner, JobRequest(variant="vase"))


def test_another_release_in_service_serves_at_once(owner):
    before = submission.submit(owner, JobRequest(variant="vase")).release
    Release.objects.filter(pk=before.pk).update(status="retired")
    with pytest.raises(ReleaseNotAvailable):
        submission.submit(owner, JobRequest(variant="vase"))
    after = make_release(name="after")
    assert submission.submit(owner, JobRequest(variant="vase")).release == after
    canary = make_release(name="canary", status="candidate")
    Release.objects.filter(pk=canary.pk).update(canary_percent=100)

    assert submission.submit(owner, JobRequest(variant="vase")).release == canary


def test_the_limits_of_a_key_apply_to_repeated_requests(owner):
    key, _ = make_key(owner=owner, images_per_day=2)
    for _ in range(2):
        submission.submit(owner, JobRequest(variant="vase", api_key=key))

    with pytest.raises(QuotaExceeded):
        submission.submit(owner, JobRequest(variant="vase", api_key=key))


def test_in_a_transaction_of_the_caller_no_worker_is_notified_before_its_commit(owner, monkeypatch):
    submission.submit(owner, JobRequest(variant="vase"))
    called: list[str] = []
    monkeypatch.setattr(submission.notifications, "wake", called.append)
    with transaction.atomic():
        submission.submit(owner, JobRequest(variant="vase"))
        assert called == []
        transaction.set_rollback(True)

    assert (Job.objects.count(), called) == (1, [])


def test_without_redis_a_job_is_still_accepted(owner, settings, monkeypatch):
    from generation.infra import redis_client

    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    monkeypatch.setattr(redis_client, "_client", None)
    monkeypatch.setattr(redis_client, "_resume_at", 0.0)

    assert submission.submit(owner, JobRequest(variant="vase")).status == "queued"


@pytest.mark.parametrize("hours", (-2, 2))
def test_the_clock_of_a_web_process_does_not_decide_when_a_job_is_overdue(
    owner, monkeypatch, hours
):
    now = timezone.now
    monkeypatch.setattr(timezone, "now", lambda: now() + timedelta(hours=hours))
    job = submission.submit(owner, JobRequest(variant="vase", cancel_after=600))
    monkeypatch.undo()

    assert timedelta(minutes=5) < job.cancel_at - now() <= timedelta(minutes=10)
