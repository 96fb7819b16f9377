"""Lifecycle of a job on real PostgreSQL: guarded changes, fencing, fairness, rescue, single flight."""

import itertools
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest
from django.db import connection, transaction
from django.utils import timezone

from generation.images import store as images
from generation.jobs import completion, retrying
from generation.jobs import lifecycle as jobs
from generation.jobs.completion import Result
from generation.jobs.failures import MAX_PAUSE_SECONDS, Failure, pause_seconds
from generation.jobs.lifecycle import Claim, Outcome
from generation.jobs.rescue import rescue
from generation.models import Attempt, Image, Job
from tests import fake_worker
from tests.factories import make_job, make_release, make_user

pytestmark = pytest.mark.django_db(transaction=True)


def queued(**fields) -> Job:
    """A queued job with its true key."""
    job = make_job(**fields)
    job.key = images.job_key(images.keys(job))
    job.save(update_fields=["key"])
    return job


def claimed(worker: str = "w1") -> list[Claim]:
    return [Claim(job.id, job.attempt) for job in jobs.claim(worker).jobs]


def finished(claim: Claim) -> Result:
    """A result with real files."""
    job = Job.objects.get(id=claim.job_id)
    job.attempt = claim.attempt
    return fake_worker.result_of(job, device_seconds=0.5)


def expire(job: Job) -> None:
    Job.objects.filter(id=job.id).update(lease_expires_at=timezone.now() - timedelta(seconds=1))


def test_a_claim_makes_the_job_running_with_a_lease_and_an_attempt():
    job = queued()

    (claim,) = claimed("w1")

    job.refresh_from_db()
    assert (job.status, job.attempt, job.worker_name) == ("running", 1, "w1")
    assert job.lease_expires_at > timezone.now()
    assert Attempt.objects.get(job=job).outcome == Outcome.RUNNING
    assert claim == Claim(job.id, 1)


def test_a_commit_with_the_token_succeeds_and_keeps_the_images():
    job = queued(n=2, seed=5)
    (claim,) = claimed()

    assert completion.commit([finished(claim)]) == []

    job.refresh_from_db()
    assert (job.status, job.lease_expires_at, job.device_seconds) == ("succeeded", None, 0.5)
    assert [(image.index, image.seed) for image in job.images.all()] == [(0, 5), (1, 6)]
    assert Attempt.objects.get(job=job).outcome == Outcome.SUCCEEDED


def test_a_late_commit_with_an_old_token_is_refused_and_leaves_nothing():
    job = queued()
    (late,) = claimed("slow")
    expire(job)
    rescue()
    (second,) = claimed("other")

    assert completion.commit([finished(late)]) == [late]
    assert not Image.objects.exists()
    assert completion.commit([finished(second)]) == []
    assert [a.outcome for a in Attempt.objects.all()] == [Outcome.LOST, Outcome.SUCCEEDED]


def test_the_rescue_skips_jobs_with_a_valid_lease():
    queued()
    claimed()

    assert rescue() == 0


def test_a_job_that_loses_its_worker_too_often_fails_permanently(settings):
    settings.MAX_ATTEMPTS = 2
    job = queued()
    for _ in range(2):
        claimed()
        expire(job)
        assert rescue() == 1

    job.refresh_from_db()
    assert (job.status, job.error_code, job.failures) == ("failed", "worker_lost", 2)
    assert claimed() == []


def test_a_job_with_a_permanent_error_fails_at_once():
    job = queued()
    (claim,) = claimed()

    status = jobs.settle(claim, Outcome.FAILED, Failure("embedding_invalid", "x", retryable=False))

    job.refresh_from_db()
    assert (status, job.error_code, job.error_detail) == ("failed", "embedding_invalid", "x")


def test_a_graceful_stop_of_the_worker_is_no_failure_of_the_job():
    job = queued()
    (claim,) = claimed()

    assert jobs.settle(claim, Outcome.RELEASED) == "queued"

    job.refresh_from_db()
    assert (job.failures, job.attempt) == (0, 1)


def test_a_later_result_of_a_canceled_job_is_refused():
    job = queued()
    (claim,) = claimed()

    assert jobs.cancel(job.id).status == "canceled"
    assert jobs.held([claim], extend=True) == set()
    assert completion.commit([finished(claim)]) == [claim]
    assert jobs.cancel(job.id).status == "canceled"


def test_canceling_an_ended_job_changes_nothing():
    job = queued()
    (claim,) = claimed()
    completion.commit([finished(claim)])

    assert jobs.cancel(job.id).status == "succeeded"


def test_a_failed_job_can_be_queued_again_and_a_succeeded_one_cannot():
    job = queued()
    (claim,) = claimed()
    jobs.settle(claim, Outcome.FAILED, Failure("x", "x", retryable=False))

    assert retrying.retry_these([job.id]) == [job.id]

    (claim,) = claimed()
    assert claim.attempt == 2
    completion.commit([finished(claim)])
    assert retrying.retry_these([job.id]) == []


def test_the_heartbeat_extends_only_leases_that_are_still_held():
    job, other = queued(seed=1), queued(seed=2)
    claims = claimed()
    Job.objects.update(lease_expires_at=timezone.now() + timedelta(seconds=1))
    jobs.cancel(other.id)

    held = jobs.held(claims, extend=True)

    assert [claim.job_id for claim in held] == [job.id]
    job.refresh_from_db()
    assert job.lease_expires_at > timezone.now() + timedelta(seconds=5)


# --- which jobs -------------------------------------------------------------------------------------


def test_a_batch_holds_compatible_jobs_up_to_its_size_in_images(settings):
    settings.BATCH_SIZE = 4
    release = make_release()
    for seed in (10, 20, 30):
        queued(release=release, seed=seed, n=2)
    queued(release=make_release(name="another"), seed=40)

    assert sorted(job.seed for job in jobs.claim("w").jobs) == [10, 20]
    assert [job.seed for job in jobs.claim("w").jobs] == [30]
    assert [job.seed for job in jobs.claim("w").jobs] == [40]


def test_owners_take_turns_however_much_one_of_them_requests(settings):
    settings.BATCH_SIZE = 1
    greedy, modest = make_user(username="greedy"), make_user(username="modest")
    for seed in range(5):
        queued(owner=greedy, seed=seed)
    for seed in (100, 101):
        queued(owner=modest, seed=seed)

    order = []
    for _ in range(4):
        (claim,) = claimed()
        order.append(Job.objects.get(id=claim.job_id).owner.username)
        completion.commit([finished(claim)])

    assert order == ["greedy", "modest", "greedy", "modest"]


def served(settings, *, batch_size: int, claims: int) -> list[str]:
    """Return the names of the owners in the order in which their jobs were claimed, batch by batch."""
    settings.BATCH_SIZE = batch_size
    names = []
    for _ in range(claims):
        taken = jobs.claim("w").jobs
        names += [job.owner.username for job in taken]
        completion.commit([finished(Claim.of(job)) for job in taken])
    return names


def queue_for(weights: dict[str, int], *, each: int) -> None:
    """Queue jobs of one image, all of them different."""
    seeds = itertools.count()
    for name, weight in weights.items():
        for _ in range(each):
            queued(owner=make_user(username=name), seed=next(seeds), weight=weight)


def test_an_owner_of_weight_two_gets_two_turns_where_others_get_one(settings):
    queue_for({"double": 2, "single": 1, "other": 1}, each=8)

    one_by_one = served(settings, batch_size=1, claims=8)
    in_a_batch = served(settings, batch_size=4, claims=2)

    assert Counter(one_by_one) == {"double": 4, "single": 2, "other": 2}
    assert set(one_by_one[:4]) == set(one_by_one[4:]) == {"double", "single", "other"}
    assert Counter(in_a_batch) == {"double": 4, "single": 2, "other": 2}


def test_running_jobs_of_an_owner_count_by_its_weight(settings):
    settings.BATCH_SIZE = 2
    queue_for({"double": 2, "single": 1}, each=8)

    running = [job.owner.username for worker in "abcdef" for job in jobs.claim(worker).jobs]

    assert running[:4] == ["double", "double", "single", "single"]
    assert Counter(running) == {"double": 8, "single": 4}


def test_turns_are_counted_in_images(settings):
    settings.BATCH_SIZE = 8
    for seed in range(3):
        queued(owner=make_user(username="four at once"), seed=seed * 10, n=4)
    for seed in range(100, 106):
        queued(owner=make_user(username="one by one"), seed=seed)

    taken = [(job.owner.username, job.n) for job in jobs.claim("w").jobs]

    assert taken == [("four at once", 4)] + [("one by one", 1)] * 4


def test_priority_orders_an_owners_own_jobs(settings):
    settings.BATCH_SIZE = 1
    queued(seed=1)
    urgent = queued(seed=2, priority=5)

    assert [claim.job_id for claim in claimed()] == [urgent.id]


def test_a_job_that_failed_before_runs_alone():
    suspect = queued(seed=1)
    Job.objects.filter(id=suspect.id).update(failures=1)
    innocent = queued(seed=2)

    assert [claim.job_id for claim in claimed()] == [suspect.id]
    assert [claim.job_id for claim in claimed()] == [innocent.id]


# --- single flight ----------------------------------------------------------------------------------


def test_of_identical_jobs_one_is_computed_and_answers_the_others_in_their_format():
    first = queued(seed=7)
    second = queued(seed=7, variant=first.variant, embedding=first.embedding, release=first.release,
                    output_format="png")  # fmt: skip
    (claim,) = claimed()
    assert claimed("w2") == []

    completion.commit([finished(claim)])

    second.refresh_from_db()
    assert (second.status, second.cache, second.attempt) == ("succeeded", "shared", 0)
    assert (first.images.get().format, second.images.get().format) == ("webp", "png")
    assert first.images.get().master == second.images.get().file


def test_when_the_computing_job_is_canceled_the_identical_one_takes_over():
    first = queued(seed=7)
    second = queued(seed=7, variant=first.variant, embedding=first.embedding, release=first.release)
    claimed()

    jobs.cancel(first.id)

    (claim,) = claimed("w2")
    assert claim.job_id == second.id


def test_workers_that_claim_concurrently_never_share_a_job(settings):
    settings.BATCH_SIZE = 3
    release = make_release()
    for seed in range(40):
        queued(release=release, seed=seed // 2)  # every job has an identical one
    taken: list[Claim] = []
    errors: list[Exception] = []

    def work(name: str) -> None:
        try:
            while batch := claimed(name):
                taken.extend(batch)
                completion.commit([finished(claim) for claim in batch])
        except Exception as error:
            errors.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=work, args=(f"w{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert errors == []
    assert len(taken) == len(set(taken))
    assert set(Job.objects.values_list("status", flat=True)) == {"succeeded"}
    assert Image.objects.count() == 40


def test_cached_plans_survive_a_migration_that_adds_columns():
    make_job()
    (first,) = claimed()
    completion.commit([finished(first)])
    make_job()
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        for table in ("generation_job", "generation_image", "generation_attempt"):
            cursor.execute(f"ALTER TABLE {table} ADD COLUMN newer integer")

    (second,) = claimed()

    assert completion.commit([finished(second)]) == []
    assert Job.objects.filter(status="succeeded").count() == 2


# --- pauses and other transactions ------------------------------------------------------------------
def test_the_next_attempt_waits_longer_each_time(settings):
    settings.MAX_ATTEMPTS = 9
    job = queued()
    pauses = []
    for _ in range(4):
        (claim,) = claimed()
        before = timezone.now()
        jobs.settle(claim, Outcome.FAILED, Failure("internal_error", "x"))
        assert claimed() == []
        job.refresh_from_db()
        pauses.append((job.not_before - before).total_seconds())
        Job.objects.update(not_before=timezone.now())

    for pause, most in zip(pauses, (2, 8, 32, 128), strict=True):
        assert most / 2 <= pause < most + 5
    assert pause_seconds(50) <= MAX_PAUSE_SECONDS


def test_pauses_of_many_jobs_end_at_different_times():
    assert len({pause_seconds(1) for _ in range(50)}) == 50


def test_a_failed_job_does_not_delay_other_jobs_of_its_owner():
    first = queued(seed=1)
    (claim,) = claimed()
    jobs.settle(claim, Outcome.FAILED, Failure("internal_error", "x"))
    second = queued(seed=2)

    assert [claim.job_id for claim in claimed()] == [second.id]
    assert Job.objects.get(id=first.id).status == "queued"


@contextmanager
def another_transaction(sql: str, *parameters: object) -> Iterator[None]:
    """Hold the locks of a statement in a connection of its own."""
    locked_rows, end = threading.Event(), threading.Event()

    def hold() -> None:
        try:
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute(sql, parameters)
                locked_rows.set()
                end.wait(60)
        finally:
            connection.close()

    thread = threading.Thread(target=hold)
    thread.start()
    assert locked_rows.wait(60)
    yield
    end.set()
    thread.join()


REFERENCE = "SELECT 1 FROM generation_job WHERE id = %s FOR KEY SHARE"  # as by the insert of a row


def test_inserting_a_row_that_refers_to_a_job_does_not_block_its_end():
    job = queued()
    with another_transaction(REFERENCE, job.id):
        (claim,) = claimed()
        assert jobs.settle(claim, Outcome.RELEASED) == "queued"
        claimed()
        expire(job)
        assert rescue() == 1
        assert jobs.cancel(job.id).status == "canceled"


def test_a_worker_that_gives_a_job_back_waits_for_another_change_of_it():
    job = queued()
    (claim,) = claimed()
    done = threading.Event()

    def give_back() -> None:
        try:
            jobs.settle(claim, Outcome.RELEASED)
            done.set()
        finally:
            connection.close()

    with another_transaction("UPDATE generation_job SET priority = 1 WHERE id = %s", job.id):
        thread = threading.Thread(target=give_back)
        thread.start()
        assert not done.wait(0.3)
    thread.join()
    assert Job.objects.get(id=job.id).status == "queued"
    assert Attempt.objects.get().outcome == Outcome.RELEASED


def test_a_locked_job_does_not_prevent_the_renewal_of_the_others_of_its_batch():
    locked, free = queued(seed=1), queued(seed=2)
    claims = claimed()
    soon = timezone.now() + timedelta(seconds=1)
    Job.objects.update(lease_expires_at=soon)
    with another_transaction("UPDATE generation_job SET priority = 1 WHERE id = %s", locked.id):
        assert jobs.held(claims, extend=True) == set(claims)
        free.refresh_from_db()
        assert free.lease_expires_at > soon
