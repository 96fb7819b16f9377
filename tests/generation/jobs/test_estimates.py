"""Estimates of when a job ends: its place in the order of claims, and recent measurements."""

from datetime import timedelta

import pytest
from django.utils import timezone

from generation.jobs import claiming, estimates, pausing, throughput
from generation.models import Job, Worker
from tests.factories import make_job, make_release, make_user, make_worker

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_server")]


@pytest.fixture(autouse=True)
def empty_caches():
    estimates._served_by.cache_clear()


def place(job: Job) -> int:
    found = estimates.of(job)
    assert found
    return found.position


def at(seconds: float):
    return timezone.now() + timedelta(seconds=seconds)


def test_the_place_is_the_order_in_which_jobs_are_claimed():
    release = make_release()
    one, two = make_user(username="one"), make_user(username="two")
    rows = [make_job(owner=one, release=release, created_at=at(-50 + k)) for k in range(4)]
    rows += [make_job(owner=two, release=release, created_at=at(-20 + k)) for k in range(2)]
    rows.append(make_job(owner=one, release=release, priority=5, created_at=at(-1)))
    places = {job.id: place(job) for job in rows}

    claimed = []
    while taken := claiming.take("worker-1", batch_size=1, lease_seconds=60).jobs:
        claimed += [job.id for job in taken]
        Job.objects.filter(id=taken[0].id).update(
            status="canceled", finished_at=timezone.now(), lease_expires_at=None
        )

    # Of other owners as many count as are before it among its own: one place more or less.
    assert len(claimed) == len(rows)
    for real, job_id in enumerate(claimed, start=1):
        assert abs(places[job_id] - real) <= 1
    assert places[claimed[0]] == 1 and places[claimed[-1]] == len(rows)


def test_the_estimate_follows_the_measurements_of_the_workers():
    first, job = make_job(n=4), make_job(n=2)
    one = make_worker()
    assert estimates.of(job).eta_p50 is None  # there are no measurements yet
    key = throughput.key_of(job.release_id, job.width, job.height)
    one.batch_seconds = {key: {"1": [0.2, 0.3], "8": [0.8, 1.6]}}
    one.save()
    estimates._served_by.cache_clear()

    alone = estimates.of(job)
    make_worker(name="worker-2")  # a worker without measurements
    estimates._served_by.cache_clear()
    shared = estimates.of(job)

    own_p50, own_p90 = 0.2 + 0.6 / 7, 0.3 + 1.3 / 7  # between a batch of 1 and one of 8
    assert alone.eta_p50 == pytest.approx(4 * 0.1 + own_p50)
    assert alone.eta_p90 == pytest.approx(4 * 0.2 + own_p90)
    assert shared.eta_p50 == pytest.approx(2 * 0.1 + own_p50)
    assert estimates.of(first).eta_p50 == pytest.approx(0.2 + 0.6 * 3 / 7)


def test_a_silent_worker_is_not_counted():
    make_worker(silent_seconds=600)

    found = estimates.of(make_job())

    assert not found.feasible and "student" in found.reason
    assert (found.eta_p50, found.position) == (None, 1)


@pytest.mark.parametrize("status", ["queued", "running"])
def test_the_estimate_reports_a_worker_that_loads_the_model_first(status):
    def current_reason() -> str:
        estimates._served_by.cache_clear()
        found = estimates.of(job)
        assert found.feasible
        return found.reason

    job = make_job(status=status)
    worker = make_worker(loaded=[make_release(name="another")])
    assert current_reason() == estimates.LOADS_FIRST
    other = make_worker(name="worker-2", loaded=[job.release])
    assert current_reason() == ("" if status == "queued" else estimates.LOADS_FIRST)
    other.delete()
    Worker.objects.filter(pk=worker.pk).update(loaded=[job.release_id])
    assert current_reason() == ""


def test_the_estimate_reports_a_paused_queue():
    make_worker()
    job = make_job()
    pausing.pause("generation", by="anna")

    found = estimates.of(job)

    assert (found.feasible, found.eta_p50) == (False, None) and "paused" in found.reason


def test_a_running_job_has_no_place_and_one_that_ended_no_estimate():
    assert place(make_job(status="running")) == 0
    assert estimates.of(make_job(status="succeeded")) is None


def test_jobs_of_another_queue_do_not_count():
    teacher = make_release(name="teacher-1", kind="teacher")
    student = make_release(name="student-1", kind="student")
    for _ in range(3):
        make_job(release=teacher)
    job = make_job(release=student)
    assert place(job) == 4

    make_worker(name="reference-1", queue="reference")
    estimates._served_by.cache_clear()

    assert place(job) == 1


def test_a_place_behind_many_is_capped():
    release, owner = make_release(), make_user(username="busy")
    first = make_job(owner=owner, release=release)
    fields = [f.attname for f in Job._meta.concrete_fields if f.attname not in ("id", "key")]
    facts = {name: getattr(first, name) for name in fields}
    Job.objects.bulk_create(Job(**facts, key=f"{k:064}") for k in range(estimates.MAX_AHEAD + 50))

    assert place(make_job(owner=owner, release=release)) == estimates.MAX_AHEAD + 1
