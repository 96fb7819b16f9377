"""Durations of runs: by their slices, of earlier runs, and the time left of an open run."""

from datetime import timedelta

import pytest
from django.utils import timezone

from distillation.models import Run, Slice
from distillation.reports import durations, stage_list
from tests.distillation.factories import make_run
from tests.distillation.reporting import write_stage

pytestmark = pytest.mark.django_db


def worked(run: Run, *minutes: float) -> Run:
    """Give the run slices of these lengths, with an hour between them."""
    began = timezone.now() - timedelta(days=1)
    for number, length in enumerate(minutes):
        start = began + timedelta(hours=number)
        Slice.objects.create(
            run=run, number=number + 1, worker_name="w", outcome="over", started_at=start,
            ended_at=start + timedelta(minutes=length),
        )  # fmt: skip
    return run


def ended(*minutes: float, **fields: object) -> Run:
    return worked(make_run(status="succeeded", finished_at=timezone.now(), **fields), *minutes)


def test_the_time_of_a_recipe_is_the_median_of_its_earlier_runs_without_pauses():
    for minutes in ((10, 5), (30,), (12,)):
        ended(*minutes)
    ended(99, recipe={"recipe": "starter-1step", "again": {"steps": 1}})
    ended(7, begins_with=make_run().teacher)
    found = durations.measured()
    assert found["starter-1step", False] == durations.Measured(15 * 60.0, 3)
    assert found["starter-1step", True] == durations.Measured(7 * 60.0, 1)
    assert set(found) == {("starter-1step", False), ("starter-1step", True)}


def test_the_time_left_of_an_open_run_follows_from_its_pace():
    run = worked(make_run(percent=25.0), 10)
    seconds = durations.worked([run.pk])[run.pk]
    assert durations.left(run, seconds) == pytest.approx(30 * 60)
    new = make_run(percent=1.0)
    assert durations.left(new, 60) is None
    ended(10)
    assert durations.left(new, 60) == 9 * 60
    assert durations.left(new, 11 * 60) is None
    assert durations.left(make_run(percent=1.0, tags=["vase"]), 60) is None
    assert durations.left(ended(5), 300) is None


def test_the_time_in_advance_is_measured_here_or_on_another_machine():
    recipe = {"recipe": "starter-1step"}
    elsewhere = "120 minutes on two cores for 256 prompts"
    assert durations.in_advance(recipe, is_warm=False) == elsewhere
    ended(14)
    assert durations.in_advance(recipe, is_warm=False) == "about 14 minutes"
    assert durations.in_advance({"recipe": "hinton"}, is_warm=False) == ""
    assert durations.in_advance(recipe | {"again": {"steps": 1}}, is_warm=False) == ""


def test_the_stages_of_an_open_run_have_the_time_left_of_earlier_runs(settings):
    names = ("pairs", "joint", "quantise", "release")
    for name, seconds in (("pairs", 60.0), ("joint", 200.0), ("quantise", 30.0)):
        write_stage(f"{name}-0", {"done.json": {"seconds": seconds}})
    ended(5, folders={name: f"{name}-0" for name in names})
    ended(5, folders={"joint": "joint-0"}, recipe={"recipe": "starter-2step"})
    write_stage("pairs-1", {"done.json": {"seconds": 1.0}})
    folders = {name: f"{name}-1" for name in names}
    run = make_run(stage="joint", percent=80.0, folders=folders)
    found = {stage.name: stage for stage in stage_list.of(run)}
    assert (found["pairs"].left, found["release"].left, found["quantise"].left) == (None, None, 30)
    part = found["joint"].percent / 100
    assert 0 < part < 1 and found["joint"].left == pytest.approx(200 * (1 - part))
    Run.objects.filter(pk=run.pk).update(status="failed", finished_at=timezone.now())
    assert {stage.left for stage in stage_list.of(Run.objects.get(pk=run.pk))} == {None}


@pytest.mark.parametrize(
    ("seconds", "words"), [(40, "40 s"), (14 * 60, "14 minutes"), (19_800, "5.5 hours")]
)
def test_durations_are_rounded_for_people(seconds, words):
    assert durations.in_words(seconds) == words


def test_the_stages_of_a_run_have_shares_states_and_progress(settings):
    names = ("pairs", "start", "joint", "quantise", "release")
    run = make_run(stage="joint", percent=52.0, folders={name: f"{name}-1" for name in names})
    assert stage_list.of(make_run()) == []
    write_stage("pairs-1", {"done.json": {"seconds": 61.0}})
    write_stage("start-1", {"done.json": {"seconds": 1.0}})
    write_stage("joint-1", {"seconds.json": {"seconds": 30.0}})
    found = stage_list.of(run)
    assert [stage.name for stage in found] == ["pairs", "start", "joint", "quantise", "release"]
    assert [stage.state for stage in found] == ["finished", "finished", "running", "waiting", "waiting"]  # fmt: skip
    assert sum(stage.share for stage in found) == pytest.approx(100)
    assert (found[0].percent, found[0].seconds, found[4].seconds) == (100.0, 61.0, None)
    assert 0 < found[2].percent < 100
    whole = sum(stage.share * stage.percent for stage in found) / 100
    assert whole == pytest.approx(52.0)
