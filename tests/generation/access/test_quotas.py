"""Limits of keys and of the queue, against real PostgreSQL: usage is exact, also with concurrent requests."""

import re
from datetime import timedelta

import pytest
from django.contrib.auth import get_user_model
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from generation.access import quotas
from generation.api import authentication
from generation.errors import InvalidRequest, QueueFull, QuotaExceeded, RateLimited
from generation.jobs import completion, submission
from generation.jobs import lifecycle as jobs
from generation.jobs.job_request import JobRequest
from generation.jobs.lifecycle import Claim
from generation.models import Job, OwnerLimits, OwnerUsage, Usage
from tests import clocks, fake_worker
from tests.client import API, problem
from tests.factories import make_embedding, make_job, make_key, make_release, make_user
from tests.threads import in_threads

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def empty_caches():
    quotas.queued.cache_clear()
    quotas.ended.cache_clear()


@pytest.fixture(autouse=True)
def variant(redis_server):
    return make_embedding(encoder_fingerprint=make_release().encoder_fingerprint).variant


def submit(key, **fields) -> Job:
    return submission.submit(key.owner, JobRequest(api_key=key, variant="red-glass-vase", **fields))


def used(key) -> tuple[int, float]:
    row = Usage.objects.get(api_key=key)
    return row.images, row.device_seconds


def complete(key, *, seconds: float, **fields) -> None:
    """Submit a job and complete it."""
    submit(key, **fields)
    (taken,) = jobs.claim("w").jobs
    completion.commit([fake_worker.result_of(taken, device_seconds=seconds)])


# --- images a day -----------------------------------------------------------------------------------
def test_images_are_counted_until_the_quota_is_used_up():
    key, _ = make_key(images_per_day=5)
    submit(key, n=2)
    submit(key, n=3)

    with pytest.raises(QuotaExceeded) as refused:
        submit(key, n=1)

    assert used(key)[0] == 5 and Job.objects.count() == 2
    assert "5 images per day: 5 were requested today, and this job needs 1" in refused.value.detail
    assert re.search(r"renewed at \d{4}-\d\d-\d\dT00:00Z, in \d+ h \d+ min", refused.value.detail)
    assert 1 <= refused.value.retry_after <= 120


def test_a_smaller_job_still_fits_after_a_larger_one_was_refused():
    key, _ = make_key(images_per_day=3)
    submit(key, n=2)
    with pytest.raises(QuotaExceeded):
        submit(key, n=2)

    submit(key, n=1)

    assert used(key)[0] == 3


def test_yesterdays_use_does_not_count():
    key, _ = make_key(images_per_day=1)
    Usage.objects.create(api_key=key, day=quotas.today() - timedelta(days=1), images=1)

    submit(key)

    assert Usage.objects.filter(api_key=key).count() == 2


@pytest.mark.parametrize("days", [-1, 1])
def test_hosts_whose_clocks_differ_by_a_day_count_for_the_same_day(monkeypatch, days: int):
    key, _ = make_key(images_per_day=2, device_seconds_per_day=100)
    complete(key, seconds=1.0, seed=4)
    with monkeypatch.context() as patch:
        clocks.shift(patch, timedelta(days=days))
        complete(key, seconds=3.0, seed=5)
        with pytest.raises(QuotaExceeded):
            submit(key)

    row = Usage.objects.get()
    assert (row.images, row.device_seconds, row.day) == (2, 4.0, quotas.today())
    with connection.cursor() as cursor:
        cursor.execute("SELECT (statement_timestamp() AT TIME ZONE 'UTC')::date")
        assert cursor.fetchone() == (quotas.today(),)


def test_a_refused_job_uses_no_quota():
    key, _ = make_key(images_per_day=5)
    submit(key, external_id="a")
    with pytest.raises(InvalidRequest):
        submit(key, size="1x1")
    with pytest.raises(Exception, match="one_job_per_external_id"):
        submit(key, external_id="a", n=2)

    assert used(key)[0] == 1


def test_concurrent_requests_never_use_more_than_the_quota():
    key, _ = make_key(images_per_day=7)
    outcomes: list[str] = []

    def submit_several() -> None:
        for _ in range(5):
            try:
                submit(key)
                outcomes.append("accepted")
            except QuotaExceeded:
                outcomes.append("refused")

    in_threads(submit_several, count=4)

    assert outcomes.count("accepted") == 7 and outcomes.count("refused") == 13
    assert used(key)[0] == Job.objects.count() == 7


# --- device seconds a day ---------------------------------------------------------------------------
def test_device_seconds_are_counted_at_commit_and_use_up_the_quota():
    key, _ = make_key(device_seconds_per_day=1)
    complete(key, seconds=0.5)
    complete(key, seconds=0.75)

    with pytest.raises(QuotaExceeded, match=r"1 device second per day: 1\.2 were used today"):
        submit(key)

    assert used(key) == (2, 1.25)


def test_a_refused_late_result_uses_no_device_seconds():
    key, _ = make_key(device_seconds_per_day=1)
    job = submit(key)
    (taken,) = jobs.claim("w").jobs
    jobs.cancel(job.id)

    assert completion.commit([fake_worker.result_of(taken, device_seconds=0.5)]) == [
        Claim.of(taken)
    ]

    assert used(key) == (1, 0.0)


def test_a_key_without_a_quota_costs_no_query(django_assert_num_queries):
    key = authentication.find(make_key()[1])
    job = make_job(api_key=key, owner=key.owner)
    quotas.queued()

    with django_assert_num_queries(0):
        assert quotas.refusal(job) is None
        quotas.use(job)
        quotas.spend(owners={}, keys={})
    (taken,) = jobs.claim("w").jobs
    completion.commit([fake_worker.result_of(taken, device_seconds=0.5)])
    assert not Usage.objects.exists()


# --- waiting jobs -----------------------------------------------------------------------------------
def test_a_key_has_a_limit_of_waiting_jobs():
    key, _ = make_key(max_queued_jobs=2)
    submit(key)
    submit(key)
    with pytest.raises(RateLimited, match="This key has 2 queued jobs") as refused:
        submit(key)
    assert refused.value.retry_after == 120  # no job has ended recently

    jobs.claim("w")

    submit(key)


def test_concurrent_requests_keep_the_limit_of_waiting_jobs():
    key, _ = make_key(max_queued_jobs=3)

    def submit_several() -> None:
        for _ in range(3):
            try:
                submit(key)
            except RateLimited:
                return

    in_threads(submit_several, count=4)

    assert Job.objects.count() == 3


def test_a_full_queue_refuses_jobs_that_would_wait_and_answers_from_stored_images(settings):
    key, _ = make_key(max_queued_jobs=1)
    complete(key, seed=1, seconds=0.5)
    settings.MAX_QUEUED_JOBS = 1
    submit(key)
    quotas.queued.cache_clear()

    with pytest.raises(QueueFull, match="1 job is queued"):
        submit(make_key(name="another")[0])

    assert submit(key, seed=1).cache == Job.Cache.HIT


def test_without_a_limit_the_queue_is_not_counted(settings, django_assert_num_queries):
    settings.MAX_QUEUED_JOBS = 0
    job = make_job()
    assert quotas.limits_of(job.owner) is None

    with django_assert_num_queries(0):
        assert quotas.refusal(job) is None


def test_the_queue_is_counted_once_for_many_requests(django_assert_num_queries):
    make_job()

    with django_assert_num_queries(1):
        assert {quotas.queued() for _ in range(50)} == {1}


def test_retry_after_follows_the_rate_at_which_jobs_end(settings):
    settings.MAX_QUEUED_JOBS = 600
    for _ in range(60):  # one a second
        make_job(status=Job.Status.SUCCEEDED, finished_at=timezone.now() - timedelta(seconds=5))
    make_job(status=Job.Status.SUCCEEDED, finished_at=timezone.now() - timedelta(hours=1))
    make_job(status=Job.Status.SUCCEEDED, cache=Job.Cache.HIT)

    seconds = {quotas.seconds_until_gone(600) for _ in range(50)}

    assert min(seconds) >= 60 and max(seconds) <= 76 and len(seconds) > 1
    assert quotas.seconds_until_gone(5) <= 2
    assert quotas.seconds_until_gone(100_000) == 120


# --- over HTTP --------------------------------------------------------------------------------------
def test_refusals_have_a_retry_after(settings):
    api = API(images_per_day=1, max_queued_jobs=1)
    fields = {"variant": "red-glass-vase"}
    assert api.post("/v1/jobs", fields).status_code == 202

    waiting = api.post("/v1/jobs", fields)
    jobs.claim("w")
    used_up = api.post("/v1/jobs", fields)
    settings.MAX_QUEUED_JOBS = 1
    make_job()
    quotas.queued.cache_clear()
    full = api.post("/v1/jobs", fields)

    problem(waiting, 429, "rate_limited")
    problem(used_up, 429, "quota_exceeded")
    problem(full, 503, "queue_full")
    for answer in (waiting, used_up, full):
        assert 1 <= int(answer["Retry-After"]) <= 120


def test_a_repeated_request_with_its_idempotency_key_uses_the_quota_once():
    api = API(images_per_day=1)
    fields = {"variant": "red-glass-vase"}

    answers = [api.post("/v1/jobs", fields, headers={"Idempotency-Key": "once"}) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [202, 202]
    assert used(api.key)[0] == 1


# --- limits of a person -----------------------------------------------------------------------------
def submit_on_page(owner, **fields) -> Job:
    return submission.submit(
        owner, JobRequest(via=Job.Via.PAGE, variant="red-glass-vase", **fields)
    )


def make_limited_owner(**limits: int):
    """Create a person with limits, and two keys without any."""
    owner = make_user(username="limited")
    OwnerLimits.objects.create(owner=owner, **limits)
    keys = [make_key(owner=owner)[0] for _ in range(2)]
    return get_user_model().objects.get(pk=owner.pk), keys


def test_all_keys_of_a_person_and_the_page_share_one_quota():
    owner, (key, other) = make_limited_owner(images_per_day=6)
    submit(key, n=2)
    submit(other, n=2)
    submit_on_page(owner, n=2)

    for refused in (
        lambda: submit(key),
        lambda: submit(make_key(owner=owner)[0]),
        lambda: submit_on_page(owner),
    ):
        with pytest.raises(
            QuotaExceeded, match="quota of this account is 6 images per day: 6 were"
        ):
            refused()

    assert OwnerUsage.objects.get().images == 6 and Job.objects.count() == 3
    assert not Usage.objects.exists()


def test_a_key_may_have_a_smaller_quota_and_its_refusals_use_no_quota():
    owner, _ = make_limited_owner(images_per_day=3)
    narrow, _ = make_key(owner=owner, images_per_day=1)
    submit(narrow)
    with pytest.raises(QuotaExceeded, match="quota of this key is 1"):
        submit(narrow)
    submit_on_page(owner, n=2)

    wide, _ = make_key(owner=owner, images_per_day=1000)
    with pytest.raises(QuotaExceeded, match="this account"):
        submit(wide)

    assert (OwnerUsage.objects.get().images, used(narrow)[0]) == (3, 1)
    assert not Usage.objects.filter(api_key=wide, images__gt=0).exists()


def test_other_persons_are_not_affected():
    _, (key, _) = make_limited_owner(images_per_day=1)
    submit(key)
    submit(make_key(owner=make_user(username="another"))[0], n=4)
    assert OwnerUsage.objects.get().images == 1


def test_device_seconds_count_for_the_person_whichever_key_was_used():
    owner, (key, _) = make_limited_owner(device_seconds_per_day=1)
    complete(key, seconds=0.5)
    submit_on_page(owner)
    (taken,) = jobs.claim("w").jobs
    completion.commit([fake_worker.result_of(taken, device_seconds=0.75)])

    assert OwnerUsage.objects.get().device_seconds == 1.25
    with pytest.raises(QuotaExceeded, match=r"this account is 1 device second per day: 1\.2 were"):
        submit_on_page(owner)


def test_queued_jobs_of_a_person_are_counted_together():
    owner, (key, other) = make_limited_owner(max_queued_jobs=2)
    submit(key)
    submit_on_page(owner)
    for refused in (lambda: submit(other), lambda: submit_on_page(owner)):
        with pytest.raises(RateLimited, match="This account has 2 queued jobs"):
            refused()


def test_concurrent_requests_of_all_keys_never_use_more_than_the_persons_quota():
    owner, keys = make_limited_owner(images_per_day=7, max_queued_jobs=100)
    outcomes: list[str] = []

    def submit_several() -> None:
        for key in (*keys, None):
            try:
                request = JobRequest(api_key=key, variant="red-glass-vase")
                submission.submit(get_user_model().objects.get(pk=owner.pk), request)
                outcomes.append("accepted")
            except QuotaExceeded:
                outcomes.append("refused")

    in_threads(submit_several, count=4)

    assert outcomes.count("accepted") == 7 and outcomes.count("refused") == 5
    assert OwnerUsage.objects.get().images == Job.objects.count() == 7


def test_limits_of_persons_cost_no_additional_query_over_the_api():
    """Without a cache of keys, one query reads key, owner and limits."""
    api = API()
    body = {"variant": "red-glass-vase"}
    assert api.post("/v1/jobs", body).status_code == 202  # fill the caches
    quotas.queued()
    with CaptureQueriesContext(connection) as seen:
        assert api.post("/v1/jobs", body).status_code == 202
    tables = [query["sql"] for query in seen.captured_queries if "ownerlimits" in query["sql"]]
    assert len(tables) == 1 and 'FROM "generation_apikey"' in tables[0]
