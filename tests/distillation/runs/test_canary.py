"""Canaries: promotion and withdrawal by failure rates, and the outcome of their runs."""

from datetime import timedelta

import pytest
from django.utils import timezone

from distillation.models import Run
from distillation.runs import canary, policy
from distillation.runs.canary import Counts
from generation.errors import ReleaseRefused
from generation.jobs import routing, submission
from generation.jobs.job_request import JobRequest
from generation.models import Job, Release
from generation.releases import lifecycle as releases
from generation.worker import pipelines
from tests import clocks
from tests.distillation.factories import make_run
from tests.factories import make_embedding, make_image, make_release, make_user, unsaved_job

pytestmark = pytest.mark.django_db

GOOD = Counts(ended=100, failed=0, judged=100, failing=10)


@pytest.fixture
def tried(tmp_path, monkeypatch):
    """An active student and a canary beside it. They have no files, so nothing is verified."""
    monkeypatch.setattr(releases, "_verified", lambda *_, **__: None)
    monkeypatch.setattr(releases, "_compare_manifest", lambda *_: None)
    make_release(name="active")
    return releases.begin_canary(make_release(name="canary"), 20)


def served_by(
    release: Release, *, count: int, failed: int = 0, flagged: int = 0, **fields: object
) -> None:
    """Create jobs of the release that ended after the canary began."""
    shared = {
        "owner": make_user(),
        "embedding": make_embedding(encoder_fingerprint=release.encoder_fingerprint),
    }
    statuses = [Job.Status.FAILED] * failed + [Job.Status.SUCCEEDED] * (count - failed)
    jobs = Job.objects.bulk_create(
        unsaved_job(release=release, status=status, seed=seed, **(shared | fields))
        for seed, status in enumerate(statuses)
    )
    if failed or flagged:
        for number, job in enumerate(jobs[failed:]):
            image = make_image(job=job)
            image.is_accepted = number >= flagged
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
def test_a_canary_is_withdrawn_when_certainly_worse_and_promoted_after_enough_jobs(
    ours, action, words
):
    decided, reason = canary.decide(ours, GOOD, jobs=200)
    assert decided == action and words in reason


@pytest.mark.parametrize(
    ("ours", "theirs", "action", "words"),
    [
        (Counts(ended=200), Counts(ended=49), "wait", "49 of 50"),
        (Counts(ended=200, failed=200), Counts(ended=49), "withdraw", "100.0% of 200 jobs failed"),
        (Counts(ended=200, failed=4), Counts(ended=0), "wait", "0 of 50"),
        (Counts(ended=49, failed=49), Counts(ended=0), "wait", "49 of 50"),
        (
            Counts(ended=200, judged=200, failing=100),
            Counts(ended=200, judged=10),
            "withdraw",
            "50.0% of 200 judged",
        ),
        (Counts(ended=200, judged=200), Counts(ended=200, judged=49), "wait", "judged images"),
    ],
)
def test_without_enough_jobs_of_the_active_release_no_canary_is_promoted(
    ours, theirs, action, words
):
    decided, reason = canary.decide(ours, theirs, jobs=25)
    assert decided == action and words in reason


# --- beginning and ending --------------------------------------------------------------------------
def test_workers_hold_the_canary_ready(tried):
    assert [release.name for release in pipelines.wanted()] == ["active", "canary"]


@pytest.mark.parametrize("percent", [0, 100])
def test_an_invalid_share_is_refused(tried, percent):
    with pytest.raises(ReleaseRefused, match="1 to 99"):
        releases.begin_canary(tried, percent)


def test_a_second_canary_is_refused(tried):
    with pytest.raises(ReleaseRefused, match="canary is the canary"):
        releases.begin_canary(make_release(name="third"), 10)


def test_a_canary_without_an_active_student_is_refused(monkeypatch, tried):
    Release.objects.filter(name="active").update(status="retired")
    releases.end_canary(tried)

    with pytest.raises(ReleaseRefused, match="No student is active"):
        releases.begin_canary(tried, 10)


# --- outcomes -------------------------------------------------------------------------------------
def test_a_canary_is_promoted_after_enough_jobs_and_its_run_gets_the_outcome(tried, settings):
    settings.CANARY_JOBS = 50
    run = Run.objects.create(
        name="canary",
        recipe={},
        teacher=make_release(name="t", kind="teacher"),
        release=tried,
        status=Run.Status.SUCCEEDED,
        outcome=Run.Outcome.CANARY,
        finished_at=timezone.now(),
    )
    served_by(tried, count=50, flagged=2)
    served_by(Release.objects.get(name="active"), count=50, flagged=2)

    canary.watch()

    tried.refresh_from_db()
    run.refresh_from_db()
    assert (tried.status, tried.canary_percent) == ("active", 0)
    assert (run.outcome, tried.replaced.name) == ("promoted", "active")


def test_a_worse_canary_is_withdrawn_and_the_active_release_serves_all_jobs(tried, settings):
    served_by(tried, count=50, flagged=40)
    served_by(Release.objects.get(name="active"), count=50, flagged=4)

    canary.watch()

    tried.refresh_from_db()
    assert (tried.status, tried.canary_percent) == ("rejected", 0)
    assert {
        routing.resolve(None, slug="red-glass-vase", sampling_key=str(n)).release.name
        for n in range(50)
    } == {"active"}


@pytest.fixture
def good(tried, settings) -> Release:
    """A canary that is promoted when it is counted."""
    settings.CANARY_JOBS = 50
    served_by(tried, count=50)
    served_by(Release.objects.get(name="active"), count=50)
    return tried


def state(release: Release) -> tuple[str, int]:
    release.refresh_from_db()
    return release.status, release.canary_percent


def test_a_canary_that_a_person_ends_while_it_is_counted_stays_ended(good, monkeypatch):
    count = canary.count

    def end(*arguments: Release) -> Counts:
        releases.end_canary(good)
        return count(*arguments)

    monkeypatch.setattr(canary, "count", end)
    canary.watch()
    assert state(good) == ("candidate", 0)
    canary.watch()
    assert state(good) == ("candidate", 0)


def test_a_canary_that_a_person_begins_again_while_it_is_counted_is_not_decided(good, monkeypatch):
    count = canary.count

    def begin(*arguments: Release) -> Counts:
        counts = count(*arguments)
        releases.begin_canary(releases.end_canary(good), 20)
        return counts

    monkeypatch.setattr(canary, "count", begin)
    canary.watch()
    assert state(good) == ("candidate", 20)


def test_a_release_that_a_person_activates_beside_a_canary_is_not_replaced_by_it(good):
    releases.activate(make_release(name="by-a-person"))
    canary.watch()
    assert state(good) == ("candidate", 0)
    assert Release.objects.get(name="by-a-person").status == "active"


@pytest.mark.parametrize(("begun", "activated"), [(1, 0), (0, -1), (-1, 1)])
def test_hosts_whose_clocks_differ_by_an_hour_see_a_persons_activation(
    good, monkeypatch, begun: int, activated: int
):
    """begun, activated: hours by which the clocks of the host that begins the canary and of the person's are ahead."""
    releases.end_canary(good)
    with monkeypatch.context() as patch:
        clocks.shift(patch, timedelta(hours=begun))
        releases.begin_canary(good, 20)
    served_by(good, count=50, created_at=timezone.now() + timedelta(hours=2))
    with monkeypatch.context() as patch:
        clocks.shift(patch, timedelta(hours=activated))
        releases.activate(make_release(name="by-a-person"))

    canary.watch()

    assert state(good) == ("candidate", 0)
    assert Release.objects.get(name="by-a-person").status == "active"


def test_a_rollback_beside_a_canary_is_not_undone_by_it(good):
    before = make_release(name="before", status="retired")
    Release.objects.filter(name="active").update(replaced=before)
    releases.rollback("student")
    canary.watch()
    assert (state(good), state(before)) == (("candidate", 0), ("active", 0))


def test_a_good_canary_waits_for_a_person_if_promotion_is_manual(good, settings):
    settings.PROMOTION = "manual"
    canary.watch()
    assert state(good) == ("candidate", 20)


def test_a_bad_canary_is_withdrawn_even_if_promotion_is_manual(tried, settings):
    settings.PROMOTION = "manual"
    served_by(tried, count=50, failed=50)
    canary.watch()
    assert state(tried) == ("rejected", 0)


@pytest.mark.parametrize("of", ["canary", "active"])
@pytest.mark.parametrize(
    "fields", [{"cache": "hit"}, {"cache": "shared"}, {"is_release_named": True}]
)
def test_jobs_that_were_not_computed_or_named_their_release_do_not_count(good, of, fields):
    Job.objects.filter(release__name=of).update(**fields)
    canary.watch()
    assert state(good) == ("candidate", 20)


def test_a_job_stores_whether_its_request_named_the_release():
    make_embedding(encoder_fingerprint=make_release().encoder_fingerprint)
    for model, is_named in ((None, False), ("student", False), ("student-1", True)):
        request = JobRequest(variant="red-glass-vase", model=model)
        assert submission.submit(make_user(), request).is_release_named is is_named


def test_a_canary_whose_files_are_gone_does_not_stop_the_others(good, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise ReleaseRefused("Its folder is gone.")

    monkeypatch.setattr(releases, "verify", refuse)
    run = make_run(status="succeeded", outcome="canary", release=make_release(name="other"),
                   finished_at=timezone.now())  # fmt: skip
    canary.watch()
    run.refresh_from_db()
    assert (state(good), run.outcome) == (("candidate", 20), "candidate")


def test_jobs_from_before_the_canary_do_not_count(good):
    Job.objects.update(created_at=timezone.now() - timedelta(hours=1))
    canary.watch()
    assert state(good) == ("candidate", 20)


def test_the_run_of_a_canary_that_a_person_rejects_is_withdrawn(tried):
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


@pytest.mark.parametrize(
    ("decide", "outcome"),
    [
        (releases.activate, "promoted"),
        (releases.reject, "rejected"),
        (lambda release: releases.begin_canary(release, 5), "canary"),
    ],
)
def test_a_run_gets_the_outcome_of_a_persons_decision_about_its_candidate(tried, decide, outcome):
    releases.end_canary(tried)
    run = make_run(
        status="succeeded", outcome="candidate", release=tried, finished_at=timezone.now()
    )
    canary.watch()
    run.refresh_from_db()
    assert run.outcome == "candidate"
    decide(tried)
    canary.watch()
    run.refresh_from_db()
    assert run.outcome == outcome


# --- live figures ---------------------------------------------------------------------------------
def test_the_standing_of_a_canary_counts_jobs_of_both_releases_and_estimates_the_time(
    tried, settings
):
    settings.CANARY_JOBS = 100
    assert canary.standing(tried).sentence == "It has served 0 of 100 jobs."
    served_by(tried, count=25, failed=5)
    served_by(Release.objects.get(name="active"), count=60)
    found = canary.standing(tried, now=tried.canary_started_at + timedelta(minutes=10))
    assert (found.ours.ended, found.theirs.ended) == (25, 60)
    assert found.sentence == "It has served 25 of 100 jobs."
    assert found.left == "At this rate it has enough jobs in about 30 minutes."
    assert found.rows[1][1].startswith("5, 20.0% (") and found.rows[1][2].startswith("0, 0.0% (")


def test_the_standing_follows_the_promotion_policy_and_only_a_canary_has_one(good, settings):
    assert canary.standing(good).left == "It is decided within seconds."
    settings.PROMOTION = "manual"
    assert "a person activates it" in canary.standing(good).left
    assert canary.standing(releases.end_canary(good)) is None
