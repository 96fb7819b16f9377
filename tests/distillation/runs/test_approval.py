"""Approval: candidates wait for a person, who serves, tries, continues or discards them; a mail announces them."""

import pytest
from django.core import mail
from django.utils import timezone

from distillation.errors import DistillationRefused, RunOpen
from distillation.models import Run
from distillation.runs import announcements, approval, policy
from distillation.runs import lifecycle as runs
from generation.errors import ReleaseRefused
from generation.models import AuditEntry, Release
from generation.releases import lifecycle as releases
from tests.distillation.factories import make_run
from tests.factories import make_release, make_user, make_variant

pytestmark = pytest.mark.django_db

CHECK = {"name": "quality", "passed": False, "limit": 0.0, "found": None, "low": None,
         "detail": "No judge rated the pictures.", "decided": False}  # fmt: skip


@pytest.fixture(autouse=True)
def no_files(monkeypatch) -> None:
    """Releases of these tests have no files, so nothing is verified."""
    monkeypatch.setattr(releases, "_verified", lambda *_, **__: None)
    monkeypatch.setattr(releases, "_compare_manifest", lambda *_: None)


def candidate(name: str = "made", **fields: object) -> Run:
    """A run whose release waits beside an active one."""
    make_release(name="active")
    return make_run(
        **{
            "name": name, "status": "succeeded", "outcome": "candidate", "finished_at": timezone.now(),
            "release": make_release(name=name), "gate": {"passed": False, "checks": [CHECK]},
        } | fields
    )  # fmt: skip


def reloaded(run: Run) -> Run:
    return Run.objects.get(pk=run.pk)


def names(rows) -> list[str]:
    return [run.name for run in rows]


# --- waiting --------------------------------------------------------------------------------------
def test_a_candidate_waits_until_somebody_decides():
    run = candidate()
    make_run(name="promoted", status="succeeded", outcome="promoted", finished_at=timezone.now())
    assert names(approval.waiting()) == ["made"]
    approval.discard(run)
    assert names(approval.waiting()) == []


def test_a_candidate_waits_again_if_the_run_that_continues_it_is_canceled():
    run = candidate()
    following = approval.train_on(run, steps=10, by=None)
    assert names(approval.waiting()) == []
    runs.cancel(following)
    assert names(approval.waiting()) == ["made"]


# --- deciding -------------------------------------------------------------------------------------
def test_a_release_that_did_not_pass_is_served_with_a_reason_for_the_audit_log():
    run = candidate()
    with pytest.raises(DistillationRefused, match="Give a reason"):
        approval.serve(run, reason="")
    assert Release.objects.get(name="active").status == "active"

    approval.serve(run, reason="The new prompts look right.")

    assert (reloaded(run).outcome, reloaded(run).release.status) == ("promoted", "active")
    assert "look right" in reloaded(run).outcome_reason
    entry = AuditEntry.objects.get(action="release_activated", subject="made")
    assert entry.detail["reason"] == "The new prompts look right."


def test_a_release_that_passed_needs_no_reason():
    run = candidate(gate={"passed": True, "checks": []})
    assert approval.serve(run, reason="").status == "active"


def test_a_canary_gets_the_share_that_a_person_gives():
    run = candidate()
    with pytest.raises(ReleaseRefused, match="1 to 99"):
        approval.begin_canary(run, percent=100)
    approval.begin_canary(run, percent=7)
    assert (reloaded(run).outcome, reloaded(run).release.canary_percent) == ("canary", 7)
    with pytest.raises(DistillationRefused, match="nothing to decide"):
        approval.discard(reloaded(run))


def test_a_discarded_release_is_rejected():
    run = candidate()
    approval.discard(run, reason="All grey.")
    assert (reloaded(run).outcome, reloaded(run).release.status) == ("rejected", "rejected")
    with pytest.raises(DistillationRefused, match="nothing to decide"):
        approval.serve(reloaded(run), reason="After all.")


def test_training_continues_from_the_candidate_with_the_given_steps():
    run = candidate(recipe={"recipe": "starter-1step", "again": {"batch": 4}}, policy="manual")
    person = make_user()
    assert approval.steps_of(run) == 1500

    following = approval.train_on(run, steps=4000, by=person)

    assert (following.begins_with, following.teacher) == (run.release, run.teacher)
    assert following.recipe == {"recipe": "starter-1step", "again": {"batch": 4, "steps": 4000}}
    assert (following.policy, following.created_by) == ("manual", person)
    assert approval.steps_of(following) == 4000
    with pytest.raises(RunOpen):
        approval.train_on(run, steps=4000, by=person)


@pytest.mark.parametrize(
    ("fields", "steps"),
    [({"recipe": {"recipe": "hinton"}}, 10), ({"release": None}, 10), ({}, 0), ({}, 10**7)],
)
def test_a_training_that_cannot_continue_is_refused(fields, steps):
    with pytest.raises(DistillationRefused):
        approval.train_on(candidate(**fields), steps=steps, by=None)


def test_a_rehearsal_does_not_keep_the_schedule_from_starting_a_run():
    make_variant()
    candidate(name="tried", started_at=timezone.now())
    assert policy.gather().tried == "tried (succeeded, candidate)"
    Run.objects.update(recipe={"recipe": "rehearsal"})
    assert policy.gather().tried is None


# --- measuring again ------------------------------------------------------------------------------
OPEN = {"name": "worst_prompts to teacher", "passed": False, "limit": -0.1, "found": -0.068, "low": -0.137,
        "high": -0.005, "detail": "4 seeds are too few.", "decided": False, "seeds_to_decide": 19}  # fmt: skip


def test_a_check_that_seeds_would_decide_is_measured_again_by_a_run_of_the_same_training():
    begins_with = make_release(name="before")
    recipe = {"recipe": "starter-1step", "evaluation": {"speed": None}}
    run = candidate(
        gate={"passed": False, "checks": [OPEN]}, recipe=recipe, begins_with=begins_with
    )

    following = approval.measure_again(run, seeds=19, by=None)

    assert following.recipe == recipe | {"evaluation": {"speed": None, "fresh_seeds": 19}}
    assert (following.begins_with, following.teacher) == (begins_with, run.teacher)
    assert "measured again with 19 seeds" in following.reasons[0]
    assert names(approval.waiting()) == ["made"]  # nothing was decided about it


@pytest.mark.parametrize(
    "check", [CHECK, {**OPEN, "seeds_to_decide": None}, {**OPEN, "decided": True}]
)
def test_a_check_that_seeds_do_not_decide_is_not_measured_again(check):
    run = candidate(gate={"passed": False, "checks": [check]})
    assert not approval.can_measure_again(run)
    with pytest.raises(DistillationRefused, match="More seeds cannot decide"):
        approval.measure_again(run, seeds=19, by=None)


@pytest.mark.parametrize("seeds", [0, 257])
def test_an_invalid_number_of_seeds_is_refused(seeds):
    run = candidate(gate={"passed": False, "checks": [OPEN]})
    with pytest.raises(DistillationRefused, match="from 1 to 256"):
        approval.measure_again(run, seeds=seeds, by=None)


# --- announcing -----------------------------------------------------------------------------------
def test_people_get_one_mail_for_each_candidate_that_waits(settings):
    settings.MANAGERS = [("", "editor@example.org")]
    run = candidate()

    assert (announcements.announce(), announcements.announce()) == (1, 0)

    (message,) = mail.outbox
    assert (
        message.to == ["editor@example.org"] and "made waits for your decision" in message.subject
    )
    assert (
        "No judge measured whether the pictures show what they should" in message.body
        and "second=made" in message.body
    )
    assert f"/admin/distillation/run/{run.pk}/change/" in message.body


def test_the_mail_links_the_new_prompts_beside_the_teacher():
    run = candidate(replaces=make_release(name="active", covered_variants=["red-vase"]))
    for slug in ("red-vase", "blue-bowl", "green-mug"):
        make_variant(slug=slug)
    _, text = announcements.message(run)
    query = f"first={run.teacher.name}&second=made&new=active"
    assert (
        f"The 2 new prompts beside the teacher: /admin/generation/release/compare/?{query}" in text
    )
    assert "beside the teacher" not in announcements.message(candidate("other"))[1]


def test_without_addresses_nothing_is_sent_and_nothing_is_lost(settings):
    settings.MANAGERS = []
    candidate()
    assert announcements.announce() == 0 and not mail.outbox
    settings.MANAGERS = [("", "editor@example.org")]
    assert announcements.announce() == 1


def test_an_unreachable_mail_server_delays_the_mail(settings):
    settings.MANAGERS = [("", "editor@example.org")]
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", 1  # where nothing listens
    candidate()
    assert announcements.announce() == 0
    settings.EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
    assert announcements.announce() == 1
