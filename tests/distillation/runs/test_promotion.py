"""Promotion: decisions by people about releases during a run are kept; PROMOTION is an upper limit."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from distillation import folders
from distillation.evaluation.gate_limits import BETTER
from distillation.models import Run
from distillation.pipeline.acceptance import GATE
from distillation.reports import evaluations
from distillation.runs import lifecycle as runs
from distillation.runs import promotion
from generation.models import Release
from generation.releases import activation, specialists
from generation.releases import lifecycle as releases
from tests.distillation.factories import make_run
from tests.factories import cover, make_quality, make_release, make_variant

pytestmark = pytest.mark.django_db

Conclude = Callable[..., Run]


@pytest.fixture(autouse=True)
def no_files(monkeypatch) -> None:
    """Releases of these tests have no files, so nothing is verified."""
    monkeypatch.setattr(releases, "_verified", lambda *_, **__: None)
    monkeypatch.setattr(releases, "_compare_manifest", lambda *_: None)


@pytest.fixture
def incumbent() -> Release:
    """The active student, with which the gate compares."""
    return make_release(name="incumbent")


@pytest.fixture
def conclude(incumbent, tmp_path: Path) -> Conclude:
    """Return a function that concludes a run whose release was measured against `incumbent`."""

    def conclude(*, passed: bool = True, checks: object = (), **fields: object) -> Run:
        run = make_run(name="made", **{"replaces": incumbent} | fields)
        make_release(name="made")
        _, hold = runs.claim("worker-1")
        (tmp_path / "gate.json").write_text(json.dumps({"passed": passed, "checks": list(checks)}))
        promotion.conclude(Run.objects.get(pk=run.pk), hold, {GATE: tmp_path})
        return Run.objects.get(pk=run.pk)

    return conclude


def status_of(name: str) -> str:
    return Release.objects.get(name=name).status


def test_a_passed_release_replaces_the_one_that_it_was_compared_with(conclude):
    run = conclude()

    assert (run.status, run.outcome, status_of("incumbent")) == ("succeeded", "promoted", "retired")


def test_a_passed_release_becomes_a_canary_if_configured(conclude):
    run = conclude(policy="canary")

    assert (run.outcome, run.status, run.release.canary_percent) == ("canary", "succeeded", 10)
    assert (status_of("made"), status_of("incumbent")) == ("candidate", "active")


def test_a_passed_release_without_an_active_one_is_served_at_once(conclude, incumbent):
    incumbent.delete()
    make_release(name="made", status="candidate")

    run = conclude(policy="canary", replaces=None)

    assert (run.outcome, run.outcome_reason) == ("promoted", "It passed the gate.")
    assert status_of("made") == "active"


def test_a_worker_that_lost_the_run_changes_nothing(incumbent, tmp_path):
    make_run(name="made", replaces=incumbent)
    make_release(name="made")
    _, hold = runs.claim("worker-1")
    (tmp_path / "gate.json").write_text(json.dumps({"passed": True, "checks": []}))
    run = Run.objects.get(name="made")

    promotion.conclude(run, runs.Hold(run.pk, hold.token - 1), {GATE: tmp_path})
    assert (Run.objects.get(name="made").status, status_of("made")) == ("running", "candidate")
    promotion.conclude(run, hold, {GATE: tmp_path})
    assert status_of("made") == "active"


@pytest.mark.parametrize("policy", ["auto", "canary"])
def test_a_release_that_a_person_activated_during_the_run_stays_active(conclude, policy):
    releases.activate(make_release(name="by-a-person"))

    run = conclude(policy=policy)

    assert (run.outcome, run.release.canary_percent) == ("candidate", 0)
    assert (status_of("made"), status_of("by-a-person")) == ("candidate", "active")
    assert "by-a-person is active" in run.outcome_reason and "incumbent" in run.outcome_reason


def test_a_rollback_during_the_run_stays(conclude, incumbent):
    before = make_release(name="before")
    Release.objects.filter(pk=incumbent.pk).update(replaced=before)
    releases.rollback("student")

    assert (conclude().outcome, status_of("before")) == ("candidate", "active")


def test_a_release_that_a_person_activates_while_workers_load_the_other_stays_active(
    conclude, monkeypatch
):
    monkeypatch.setattr(
        activation, "make_ready", lambda _: releases.activate(make_release(name="by-a-person"))
    )

    assert (conclude().outcome, status_of("by-a-person")) == ("candidate", "active")


def test_a_first_student_that_a_person_activated_during_the_run_stays_active(conclude):
    run = conclude(replaces=None)

    assert (run.outcome, status_of("incumbent")) == ("candidate", "active")


def test_a_canary_that_a_person_began_is_not_ended_by_a_promotion(conclude):
    releases.begin_canary(make_release(name="tried"), 20)

    run = conclude()

    assert (run.outcome, Release.objects.get(name="tried").canary_percent) == ("candidate", 20)
    assert "tried" in run.outcome_reason


@pytest.mark.parametrize("passed", [True, False])
@pytest.mark.parametrize(
    ("decide", "outcome", "status"),
    [
        (releases.activate, "promoted", "active"),
        (releases.reject, "rejected", "rejected"),
        (lambda release: releases.begin_canary(release, 5), "canary", "candidate"),
        (lambda release: releases.end_canary(releases.begin_canary(release, 5)), "candidate", "candidate"),
        (lambda release: releases.rollback(releases.activate(release).kind), "candidate", "retired"),
    ],
)  # fmt: skip
def test_a_persons_decision_about_the_release_itself_is_kept(
    conclude, passed, decide, outcome, status
):
    decide(make_release(name="made"))

    run = conclude(passed=passed)

    assert (run.status, run.outcome, status_of("made")) == ("succeeded", outcome, status)


@pytest.mark.parametrize("policy", ["auto", "canary"])
def test_a_release_that_covers_fewer_active_prompts_than_the_active_one_waits_for_a_person(
    conclude, incumbent, policy
):
    for slug in ("red-vase", "blue-bowl"):
        make_variant(slug=slug)
    make_variant(slug="old-cup", status="archived")
    cover(incumbent, {"red-vase": "", "blue-bowl": ""})
    cover(make_release(name="made"), {"red-vase": "", "old-cup": ""})

    run = conclude(policy=policy)

    assert (run.outcome, status_of("made"), status_of("incumbent")) == (
        "candidate",
        "candidate",
        "active",
    )
    assert "covers 1 of the active prompt variants, and incumbent 2" in run.outcome_reason


def test_a_release_that_covers_all_active_prompts_of_the_active_one_replaces_it(
    conclude, incumbent
):
    make_variant(slug="red-vase")
    make_variant(slug="old-cup", status="archived")
    cover(incumbent, {"red-vase": "another text", "old-cup": ""})
    cover(make_release(name="made"), {"red-vase": ""})

    assert conclude().outcome == "promoted"


# --- a part of the catalogue ------------------------------------------------------------------------
@pytest.fixture
def better(incumbent) -> None:
    """A prompt that the release of the run makes better than the active student."""
    make_variant(slug="red-vase")
    make_quality(incumbent, "red vase", 1)
    make_quality(make_release(name="made"), "red vase", 4)


def test_a_passed_release_for_a_part_of_the_catalogue_serves_as_a_specialist(conclude, better):
    run = conclude(tags=["vase"])

    assert (run.outcome, status_of("made"), status_of("incumbent")) == (
        "promoted",
        "specialist",
        "active",
    )
    sides = [(row["before"]["release"], row["after"]["release"]) for row in run.prompts["rows"]]
    assert sides == [("incumbent", "made")]


def test_the_kept_report_has_the_prompts_before_and_after(conclude, better):
    report = folders.report("made") / evaluations.REPORT
    report.parent.mkdir(parents=True)
    report.write_text("<body></body>")

    conclude(tags=["vase"])

    page = report.read_text("utf-8")
    assert "red vase" in page and page.index("incumbent") < page.index("<td>made</td>")


def test_a_specialist_that_is_better_at_no_prompt_is_not_served(conclude):
    run = conclude(tags=["vase"])

    assert (run.outcome, status_of("made")) == ("candidate", "candidate")
    assert "would serve none" in run.outcome_reason


@pytest.mark.parametrize("passed", [True, False])
def test_a_specialist_that_a_person_activated_is_kept(conclude, passed):
    specialists.activate(make_release(name="made"))

    run = conclude(passed=passed, tags=["vase"])

    assert (run.outcome, status_of("made")) == ("promoted", "specialist")


def test_a_specialist_has_no_canary(conclude, better):
    assert "no canary" in conclude(tags=["vase"], policy="canary").outcome_reason
    assert status_of("made") == "candidate"


def test_a_specialist_that_was_compared_with_a_release_since_retired_is_a_candidate(
    conclude, better
):
    make_quality(make_release(name="by-a-person"), "red vase", 1)
    releases.activate(make_release(name="by-a-person"))

    run = conclude(tags=["vase"])

    assert (run.outcome, status_of("made")) == ("candidate", "candidate")
    assert "compared it with incumbent; that is not served any more" in run.outcome_reason


# --- the limit of the policy -----------------------------------------------------------------------
@pytest.mark.parametrize(
    ("ceiling", "policy", "outcome"),
    [
        ("manual", "auto", "candidate"),
        ("manual", "canary", "candidate"),
        ("canary", "auto", "canary"),
        ("canary", "manual", "candidate"),
        ("auto", "canary", "canary"),
        ("auto", "manual", "candidate"),
    ],
)
def test_the_setting_limits_the_policy_of_every_run(conclude, settings, ceiling, policy, outcome):
    settings.PROMOTION = ceiling

    assert conclude(policy=policy).outcome == outcome


# --- releases that did not pass the gate -----------------------------------------------------------
FAILED = {"name": "diversity to active", "passed": False, "limit": 0.9, "found": 0.7, "low": 0.6,
          "detail": "", "decided": True}  # fmt: skip
UNDECIDED = FAILED | {"found": 0.95, "decided": False}


@pytest.mark.parametrize("checks", [[FAILED], [UNDECIDED], []])
def test_with_the_policy_manual_a_person_decides_whatever_the_gate_found(conclude, checks):
    run = conclude(passed=False, checks=checks, policy="manual")

    assert (run.outcome, status_of("made")) == ("candidate", "candidate")
    assert "policy of the run is manual" in run.outcome_reason


def test_a_release_that_the_gate_could_not_judge_waits_for_a_person(conclude):
    run = conclude(passed=False, checks=[UNDECIDED])

    assert (run.outcome, status_of("made")) == ("candidate", "candidate")
    assert "could not decide" in run.outcome_reason


def test_a_release_that_is_not_better_anywhere_waits_for_a_person(conclude):
    run = conclude(passed=False, checks=[UNDECIDED | {"name": BETTER, "found": 0.0, "limit": 1.0}])

    assert (run.outcome, status_of("made")) == ("candidate", "candidate")
    assert "no worse than the active release, and not better anywhere" in run.outcome_reason


@pytest.mark.parametrize("checks", [[FAILED, UNDECIDED], []])
def test_a_release_that_certainly_fails_is_rejected(conclude, checks):
    run = conclude(passed=False, checks=checks)

    assert (run.outcome, status_of("made")) == ("rejected", "rejected")


@pytest.mark.parametrize("passed", [True, False])
def test_a_rehearsal_is_never_promoted_automatically(conclude, passed):
    run = conclude(passed=passed, checks=[], recipe={"recipe": "rehearsal"})

    assert (run.outcome, status_of("made"), status_of("incumbent")) == (
        "candidate",
        "candidate",
        "active",
    )
    assert "rehearsal" in run.outcome_reason
