"""Canaries: promotion and withdrawal by failure rates, and the outcome of their runs."""

from datetime import timedelta

import pytest
from django.utils import timezone

from distillation.models import Run
from distillation.runs import canary, policy
from distillation.runs.canary import Counts
from generation.errors import ReleaseRefused
from generation.jobs import routing
from generation.models import Job, Release
from generation.releases import lifecycle as releases
from generation.worker import pipelines
from tests.people import make_image, make_job, make_release

pytestmark = pytest.mark.django_db

GOOD = Counts(ended=100, failed=0, judged=100, failing=10)


@pytest.fixture
def tried(tmp_path, monkeypatch):
    """An active student and a canary beside it. They have no files, so nothing is verified."""
    monkeypatch.setattr(releases, "_verified", lambda *_, **__: None)
    monkeypatch.setattr(releases, "_compare_manifest", lambda *_: None)
    make_release(name="active")
    return releases.begin_canary(make_release(name="canary"), 20)


def served_by(release: Release, *, count: int, failed: int = 0, flagged: int = 0) -> None:
    """Jobs that ended after the canary began."""
    for number in range(count):
        status = Job.Status.FAILED if number < failed else Job.Status.SUCCEEDED
        job = make_job(release=release, status=status, seed=number)
        if status == Job.Status.SUCCEEDED:
            image = make_image(job=job)
            image.is_accepted = number >= failed + flagged
            image.save()


# --- the decision ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("ours", "action", "words"),
    [
        (Counts(ended=50, judged=50, failing=5), "wait", "50 of 200 jobs"),
        (Counts(ended=200, judged=200, failing=24), "promote", "served 200 jobs"),
        (Counts(ended=60, failed=20), "withdraw", "33.3% of 60 jobs failed"),
        (Counts(ended=60, judged=60, failing=30), "withdraw", "50.0% of 60 judged images failed"),
        (Counts(ended=10, failed=9, judged=1, failing=1), "wait", "10 of 200"),
        (Counts(ended=61, judged=61, failing=14), "wait", "61 of 200"),
        (Counts(ended=200, judged=0), "promote", "not worse than"),
    ],
)
def test_a_canary_is_withdrawn_once_it_is_surely_worse_and_promoted_after_enough_jobs(
    ours, action, words
):
    decided, reason = canary.decide(ours, GOOD, jobs=200)
    assert decided == action and words in reason


# --- beginning and ending --------------------------------------------------------------------------
def test_workers_hold_the_canary_ready(tried):
    assert [release.name for release in pipelines.wanted()] == ["active", "canary"]


@pytest.mark.parametrize("percent", [0, 100])
def test_a_share_that_is_none_is_refused(tried, percent):
    with pytest.raises(ReleaseRefused, match="1 to 99"):
        releases.begin_canary(tried, percent)


def test_one_canary_at_a_time(tried):
    with pytest.raises(ReleaseRefused, match="canary is the canary"):
        releases.begin_canary(make_release(name="third"), 10)


def test_a_canary_beside_nothing_is_refused(monkeypatch, tried):
    Release.objects.filter(name="active").update(status="retired")
    releases.end_canary(tried)

    with pytest.raises(ReleaseRefused, match="A canary needs an active student"):
        releases.begin_canary(tried, 10)


# --- what becomes of it ---------------------------------------------------------------------------
def test_enough_jobs_without_getting_worse_promote_it_and_the_run_hears(tried, settings):
    settings.CANARY_JOBS = 25
    run = Run.objects.create(
        name="canary",
        recipe={},
        teacher=make_release(name="t", kind="teacher"),
        release=tried,
        status=Run.Status.SUCCEEDED,
        outcome=Run.Outcome.CANARY,
        finished_at=timezone.now(),
    )
    served_by(tried, count=25, flagged=2)

    canary.watch()

    tried.refresh_from_db()
    run.refresh_from_db()
    assert (tried.status, tried.canary_percent) == ("active", 0)
    assert (run.outcome, tried.replaced.name) == ("promoted", "active")


def test_one_that_does_worse_is_withdrawn_and_the_active_one_serves_all(tried, settings):
    served_by(tried, count=50, flagged=40)
    served_by(Release.objects.get(name="active"), count=50, flagged=4)

    canary.watch()

    tried.refresh_from_db()
    assert (tried.status, tried.canary_percent) == ("rejected", 0)
    assert {
        routing.resolve(None, slug="red-glass-vase", sampling_key=str(n)).release.name
        for n in range(50)
    } == {"active"}


def test_jobs_from_before_the_canary_do_not_count(tried, settings):
    settings.CANARY_JOBS = 5
    served_by(tried, count=5)
    Job.objects.update(created_at=timezone.now() - timedelta(hours=1))

    canary.watch()

    tried.refresh_from_db()
    assert tried.canary_percent == 20


def test_a_canary_that_a_person_ends_is_told_to_its_run(tried):
    run = Run.objects.create(
        name="canary",
        recipe={},
        teacher=make_release(name="t", kind="teacher"),
        release=tried,
        status=Run.Status.SUCCEEDED,
        outcome=Run.Outcome.CANARY,
        finished_at=timezone.now(),
    )
    releases.reject(tried)

    canary.watch()

    run.refresh_from_db()
    assert run.outcome == Run.Outcome.WITHDRAWN


def test_no_run_begins_while_a_canary_is_tried(tried):
    assert policy.gather().canary == "canary"
