"""Policy: a run starts once when facts have changed; every decision has its reasons."""

import json
from dataclasses import replace
from datetime import timedelta

import pytest
from django.utils import timezone

from distillation.errors import DistillationRefused
from distillation.models import Decision, Run
from distillation.pipeline.summaries import FITS
from distillation.runs import lifecycle as runs
from distillation.runs import plans, policy
from distillation.runs.policy import Facts, Limits, consider, decide, gather
from generation.catalogue import editing
from generation.catalogue import variants as catalogue
from generation.models import PromptVariant, Release
from tests import clocks
from tests.distillation.factories import make_run
from tests.factories import cover, make_embedding, make_image, make_job, make_release, make_variant

FACTS = Facts(
    teacher="teacher-1",
    active="student-1",
    active_teacher="teacher-1",
    variants=100,
    uncovered=(),
    changed=(),
    unencoded=0,
    settled_seconds=3600,
    age_days=3,
    open_run=None,
    tried=None,
)
LIMITS = Limits(failing_share=0.3)


def decided(facts: Facts, limits: Limits = LIMITS) -> tuple[bool, str]:
    is_start, reasons = decide(facts, limits)
    return is_start, " ".join(reasons)


# --- the decision ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"uncovered": ("red-vase", "blue-bowl")}, "2 prompt variants are not covered: red-vase, blue"),
        ({"changed": ("red-vase",)}, "1 prompt variant has a different text: red-vase"),
        ({"active": None}, "No student"),
        ({"active_teacher": "old"}, "the teacher is teacher-1"),
        ({"judged": 400, "failing": 200}, "50% of 400 judged images of student-1 fail"),
    ],
)  # fmt: skip
def test_a_run_starts_when_facts_have_changed(changes, reason):
    is_start, reasons = decided(replace(FACTS, **changes))
    assert is_start and reason in reasons


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, "covers the catalogue"),
        ({"teacher": None, "uncovered": ("a",)}, "No teacher"),
        ({"variants": 0, "active": None}, "No prompt variant"),
        ({"uncovered": ("a",), "open_run": "student-2"}, "student-2 is open"),
        ({"uncovered": ("a",), "canary": "student-2"}, "student-2 is a canary"),
        ({"judged": 20, "failing": 9}, "covers the catalogue"),
        ({"uncovered": ("a",), "unencoded": 4}, "4 prompt variants are not encoded"),
        ({"uncovered": ("a",), "settled_seconds": 30}, "without changes"),
        ({"uncovered": ("a",), "tried": "student-2 (rejected)"}, "student-2 (rejected) had the same"),
    ],
)  # fmt: skip
def test_no_run_starts_without_a_reason_or_while_something_prevents_it(changes, reason):
    is_start, reasons = decided(replace(FACTS, **changes))
    assert not is_start and reason in reasons


def test_few_new_variants_wait_for_more_if_configured():
    facts = replace(FACTS, uncovered=("a", "b"), changed=("c",))
    assert decided(facts, Limits(new_variants=3))[0]
    assert not decided(facts, Limits(new_variants=4))[0]


def test_age_is_a_reason_only_if_configured():
    old = replace(FACTS, age_days=40)
    assert not decided(old)[0]
    assert decided(old, Limits(age_days=30)) == (True, "student-1 is 40 days old.")


# --- the facts ------------------------------------------------------------------------------------
pytestmark = pytest.mark.django_db

SIZES = ((FITS["starter-1step"].image_size,) * 2,)  # that the recipe fits


@pytest.fixture
def releases(settings) -> tuple[Release, Release]:
    """A teacher, and a student of it that covers two variants."""
    settings.REDISTIL_SETTLED_SECONDS = 60
    teacher = make_release(name="teacher-1", kind="teacher", status="active", image_sizes=SIZES)
    student = make_release(
        name="student-1", kind="student", status="active", parent="teacher-1", steps=1,
        covered_variants=["red-vase", "blue-bowl"],
    )  # fmt: skip
    for slug in ("red-vase", "blue-bowl"):
        make_embedding(variant=make_variant(slug=slug))
    age_catalogue()
    return teacher, student


def age_catalogue() -> None:
    """Date the last change of the catalogue an hour back."""
    PromptVariant.objects.update(updated_at=timezone.now() - timedelta(hours=1))


def test_a_covered_catalogue_starts_nothing_and_the_decision_is_kept(releases):
    decision = consider()
    assert not decision.is_start and decision.run is None
    assert Decision.objects.get().facts["uncovered"] == []


def test_a_new_variant_starts_one_run_that_continues_the_active_student(releases):
    teacher, student = releases
    make_embedding(variant=make_variant(slug="green-mug"))
    age_catalogue()
    decision = consider()
    assert decision.is_start and "green-mug" in decision.reasons[0]
    run = Run.objects.get()
    assert decision.run == run
    assert (run.teacher, run.begins_with, run.trigger) == (teacher, student, "schedule")
    assert run.recipe == {"recipe": "starter-1step"}
    second = consider()
    assert not second.is_start and run.name in second.reasons[0]
    assert Run.objects.count() == 1


def test_a_text_is_changed_if_it_differs_from_that_of_the_coverage(releases):
    _, student = releases
    cover(student, {"red-vase": "red vase", "blue-bowl": "another bowl"})
    assert (gather().uncovered, gather().changed) == ((), ("blue-bowl",))
    cover(student, {"red-vase": "", "blue-bowl": ""})  # made for these whatever their text
    assert gather().changed == ()


def test_a_variant_that_cannot_be_encoded_is_no_reason(releases):
    make_embedding(variant=make_variant(slug="too-long"), error="78 tokens.")
    age_catalogue()
    assert not consider().is_start


def test_a_variant_that_waits_for_its_embedding_delays_the_run(releases):
    make_variant(slug="green-mug")
    age_catalogue()
    assert gather().unencoded == 1
    assert "1 prompt variant is not encoded yet" in consider().reasons[-1]


def test_a_catalogue_whose_run_was_rejected_starts_no_run_until_it_changes(releases):
    make_embedding(variant=make_variant(slug="green-mug"))
    age_catalogue()
    run = consider().run
    claimed = runs.claim("worker-1")
    runs.finish(claimed[1], outcome=Run.Outcome.REJECTED)
    assert run.name in consider().reasons[-1]
    variant = PromptVariant.objects.get(slug="green-mug")
    variant.notes = "touched"
    catalogue.save(variant)
    PromptVariant.objects.filter(pk=variant.pk).update(
        updated_at=timezone.now() + timedelta(seconds=1)
    )
    assert gather().tried is None


@pytest.mark.parametrize(
    "changes", [{"recipe": "starter-2step"}, {"timesteps": [625]}, {"again": None}]
)
def test_the_schedule_derives_a_new_student_if_the_recipe_cannot_continue_the_active_one(
    releases, settings, tmp_path, changes
):
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps({"recipe": "starter-1step"} | changes))
    settings.DISTILLATION_RECIPE = str(recipe)
    make_embedding(variant=make_variant(slug="green-mug"))
    age_catalogue()
    assert consider().run.begins_with is None
    runs.cancel(Run.objects.get())
    with pytest.raises(DistillationRefused, match="derive a new"):
        policy.start()
    assert policy.start(is_warm=False).begins_with is None


@pytest.mark.parametrize(("edited", "started"), [(1, 0), (0, -1)])
def test_a_rejected_run_counts_though_the_clocks_of_hosts_differ(
    releases, monkeypatch, edited: int, started: int
):
    """edited, started: hours by which the clocks of the editors' host and of the worker are ahead."""
    make_embedding(variant=make_variant(slug="green-mug"))
    variant = PromptVariant.objects.get(slug="green-mug")
    with monkeypatch.context() as patch:
        clocks.shift(patch, timedelta(hours=edited))
        catalogue.save(variant)
        editing.change_tags(PromptVariant.objects.all(), add=["new"])
    assert 0 <= gather().settled_seconds < 1800
    run = policy.start()
    with monkeypatch.context() as patch:
        clocks.shift(patch, timedelta(hours=started))
        claimed = runs.claim("worker-1")
        runs.finish(claimed[1], outcome=Run.Outcome.REJECTED)

    assert gather().tried.startswith(run.name)


def failed(teacher: Release, *, minutes_ago: float = 0, **fields: object) -> Run:
    """Create a run that failed, began after the last change of the catalogue, and ended `minutes_ago`."""
    at = timezone.now() - timedelta(minutes=minutes_ago)
    fields = {"status": "failed"} | fields
    return make_run(teacher=teacher, started_at=at, finished_at=at, **fields)


def test_runs_of_another_teacher_do_not_prevent_a_run(releases):
    failed(make_release(name="teacher-0", kind="teacher", status="retired"))
    assert gather().tried is None
    run = failed(releases[0])
    assert gather().tried.startswith(run.name)


def test_a_run_that_failed_before_a_promoted_one_does_not_prevent_a_run(releases):
    failed(releases[0], minutes_ago=9)
    failed(releases[0], minutes_ago=5, status="succeeded", outcome="promoted")
    assert gather().tried is None
    failed(releases[0], minutes_ago=1)
    assert gather().tried is not None


def test_a_recipe_that_does_not_fit_the_teacher_starts_nothing(releases):
    Release.objects.filter(name="teacher-1").update(
        manifest={**releases[0].manifest, "image_sizes": [[512, 512]]}
    )
    make_embedding(variant=make_variant(slug="green-cone"))
    age_catalogue()
    decision = consider()
    assert not decision.is_start and "512 × 512" in decision.reasons[0]
    with pytest.raises(DistillationRefused, match="choose another recipe"):
        policy.start()


def test_a_new_teacher_starts_a_run_without_the_active_student(releases):
    make_release(name="teacher-2", kind="teacher", status="candidate", image_sizes=SIZES)
    Release.objects.filter(name="teacher-1").update(status="retired")
    Release.objects.filter(name="teacher-2").update(status="active")
    decision = consider()
    assert decision.is_start and "teacher-2" in decision.reasons[0]
    assert decision.run.begins_with is None


def test_a_run_without_variants_is_refused(releases):
    PromptVariant.objects.update(status=PromptVariant.Status.ARCHIVED)
    with pytest.raises(DistillationRefused, match="No prompt variant"):
        policy.start()


@pytest.mark.parametrize(
    "changes", [{"timesteps": 625}, {"most_variants": "all"}, {"image_size": "large"}]
)
def test_a_recipe_that_cannot_be_planned_is_refused(releases, changes):
    with pytest.raises(DistillationRefused, match=next(iter(changes))):
        plans.plan(recipe={"recipe": "starter-1step", **changes})


# --- images that fail -----------------------------------------------------------------------------
def judged(release: Release, *, accepted: int, failing: int) -> None:
    job = make_job(release=release, status="succeeded")
    for index in range(accepted + failing):
        image = make_image(job=job, index=index)
        image.is_accepted = index < accepted
        image.save()


def test_the_share_of_failing_images_is_a_fact_once_the_student_served_for_the_window(releases):
    student = releases[1]
    judged(student, accepted=3, failing=2)
    assert gather().judged is None  # it is new: its window is not over

    long_ago = timezone.now() - timedelta(days=8)
    Release.objects.filter(pk=student.pk).update(activated_at=long_ago)
    facts = gather()
    assert (facts.judged, facts.failing) == (5, 2)


def test_failing_images_start_a_run_only_if_configured():
    facts = replace(FACTS, judged=400, failing=200)
    assert not decided(facts, Limits())[0]
    assert not decided(facts, Limits(failing_share=0.5))[
        0
    ]  # half of 400 is not surely more than half
