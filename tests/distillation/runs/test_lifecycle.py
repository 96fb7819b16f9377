"""Life cycle of runs: one worker at a time, late writes are refused, and a run ends exactly once."""

from datetime import timedelta

import pytest
from django.db.models.functions import Now
from django.utils import timezone

from distillation.errors import RunFinished, RunOpen
from distillation.models import Run, Slice
from distillation.runs import lifecycle as runs
from distillation.runs.lifecycle import Hold
from distillation.worker import process
from tests.distillation.factories import make_run
from tests.factories import make_release

pytestmark = pytest.mark.django_db

Status, Outcome = Run.Status, Slice.Outcome


def claimed(run: Run, worker: str = "worker-1") -> Hold:
    found = runs.claim(worker)
    assert found is not None and found[0].pk == run.pk
    return found[1]


def reloaded(run: Run) -> Run:
    return Run.objects.get(pk=run.pk)


def outcomes(run: Run) -> list[str]:
    return list(run.slices.values_list("outcome", flat=True))


def expire_lease(run: Run) -> None:
    Run.objects.filter(pk=run.pk).update(lease_expires_at=Now() - timedelta(seconds=1))


def end_pause(run: Run) -> None:
    Run.objects.filter(pk=run.pk).update(not_before=Now())


# --- creating -------------------------------------------------------------------------------------
def test_a_teacher_has_at_most_one_open_run():
    teacher = make_release(kind="teacher")
    options = {"recipe": {"recipe": "starter-1step"}, "teacher": teacher, "begins_with": None}
    first = runs.create(name="first", **options)
    with pytest.raises(RunOpen, match=r"first.*queued"):
        runs.create(name="second", **options)
    runs.cancel(first)
    assert runs.create(name="second", **options).status == Status.QUEUED


def test_a_created_run_notifies_a_worker(redis_server, django_capture_on_commit_callbacks):
    with django_capture_on_commit_callbacks(execute=True):
        runs.create(
            name="first",
            recipe={"recipe": "starter-1step"},
            teacher=make_release(kind="teacher"),
            begins_with=None,
        )
    assert redis_server.llen("distillation") == 1


# --- slices ---------------------------------------------------------------------------------------
def test_the_oldest_queued_run_is_claimed_by_one_worker_alone():
    first, second = make_run(), make_run()
    hold = claimed(first)
    assert hold.token == 1 and reloaded(first).status == Status.RUNNING
    assert claimed(second, "worker-2").run_id == second.pk
    assert runs.claim("worker-3") is None


def test_a_slice_that_is_over_leaves_the_run_to_the_next():
    run = make_run()
    hold = claimed(run)
    assert runs.note(hold, stage="structure", percent=40.0, catalogue="catalogue-1")
    assert runs.give_back(hold, Outcome.OVER)
    following = claimed(run)
    assert following.token == 2
    assert reloaded(run).catalogue == "catalogue-1"
    first, second = run.slices.all()
    assert (first.outcome, first.stage, first.percent) == (Outcome.OVER, "structure", 40.0)
    assert second.outcome == Outcome.RUNNING and first.ended_at is not None


def test_the_same_worker_continues_with_the_next_slice_unless_another_run_waits():
    run = make_run()
    hold = claimed(run)
    following = runs.renew(hold, stage="joint", percent=70.0)
    assert following == Hold(run.pk, 2)
    assert not runs.is_held(hold, extend=True) and runs.is_held(following, extend=True)
    assert outcomes(run) == [Outcome.OVER, Outcome.RUNNING]
    make_run()
    assert runs.renew(following) is None and runs.is_held(following, extend=False)


def test_a_lost_worker_loses_one_slice_and_its_late_writes_are_refused():
    run = make_run()
    lost = claimed(run)
    assert runs.rescue() == 0
    expire_lease(run)
    assert runs.rescue() == 1 and reloaded(run).status == Status.QUEUED
    hold = claimed(run, "worker-2")
    assert not runs.note(lost, percent=99.0)
    assert not runs.finish(lost)
    assert not runs.give_back(lost, Outcome.OVER)
    assert runs.renew(lost) is None
    assert reloaded(run).percent == 0 and runs.is_held(hold, extend=False)
    assert outcomes(run) == [Outcome.LOST, Outcome.RUNNING]


def test_the_heartbeat_extends_the_lease():
    run = make_run()
    hold = claimed(run)
    expire_lease(run)
    assert runs.is_held(hold, extend=True)
    assert runs.rescue() == 0


# --- ends -----------------------------------------------------------------------------------------
def test_a_run_is_finished_only_once():
    run = make_run()
    hold = claimed(run)
    assert runs.finish(hold, outcome=Run.Outcome.CANDIDATE)
    assert not runs.finish(hold, outcome=Run.Outcome.REJECTED)
    run = reloaded(run)
    assert (run.status, run.percent, run.outcome) == (Status.SUCCEEDED, 100.0, "candidate")
    assert run.finished_at is not None and outcomes(run) == [Outcome.FINISHED]


def test_slices_that_fail_in_a_row_end_the_run_with_their_reason(settings):
    settings.MAX_ATTEMPTS = 3
    run = make_run()
    for expected in (Status.QUEUED, Status.QUEUED, Status.FAILED):
        assert runs.give_back(claimed(run), Outcome.FAILED, detail="no space", code="disk")
        assert reloaded(run).status == expected
        end_pause(run)
    run = reloaded(run)
    assert (run.error_code, run.error_detail) == ("disk", "no space")
    assert run.slices.last().error_detail == "no space"


def test_a_successful_slice_resets_the_count_of_failed_ones(settings):
    settings.MAX_ATTEMPTS = 2
    run = make_run()
    for outcome in (Outcome.FAILED, Outcome.OVER, Outcome.FAILED):
        runs.give_back(claimed(run), outcome)
        end_pause(run)
    assert reloaded(run).status == Status.QUEUED


def test_a_run_pauses_after_a_failed_slice_and_longer_after_the_next(settings):
    settings.MAX_ATTEMPTS = 9
    run, pauses = make_run(), []
    for _ in range(9 - 1):
        before = timezone.now()
        runs.give_back(claimed(run), Outcome.FAILED, detail="CUDA out of memory")
        assert runs.claim("worker-2") is None and not process.is_work_waiting()
        pauses.append((reloaded(run).not_before - before) / timedelta(seconds=1))
        end_pause(run)
    assert pauses == pytest.approx([120, 240, 480, 960, 1920, 3600, 3600, 3600], abs=20)
    assert process.is_work_waiting()


def test_other_runs_and_a_person_need_not_wait_for_the_end_of_a_pause():
    run, other = make_run(), make_run()
    runs.give_back(claimed(run), Outcome.FAILED)
    hold = runs.renew(claimed(other))  # a run that pauses does not wait
    assert hold is not None
    runs.finish(hold)
    runs.resume(runs.pause(run))
    assert claimed(run).token == 2


def test_a_lost_slice_is_continued_at_once():
    run = make_run()
    runs.give_back(claimed(run), Outcome.LOST)
    assert claimed(run).token == 2


def test_a_stage_that_another_process_builds_makes_the_run_wait_but_never_fail(settings):
    settings.MAX_ATTEMPTS = 2
    run = make_run()
    runs.give_back(claimed(run), Outcome.FAILED)
    for _ in range(3):
        end_pause(run)
        runs.give_back(claimed(run), Outcome.FAILED, code=runs.BUSY, detail="built by process 7")
        assert runs.claim("worker-2") is None
    assert (reloaded(run).status, reloaded(run).failures) == (Status.QUEUED, 1)


def test_an_error_that_would_recur_in_every_slice_ends_the_run_at_once():
    run = make_run()
    runs.give_back(claimed(run), Outcome.FAILED, code=runs.REFUSED, detail="image_size: 512")
    assert reloaded(run).status == Status.FAILED


# --- people ---------------------------------------------------------------------------------------
def test_a_paused_run_stops_and_can_be_resumed():
    run = make_run()
    hold = claimed(run)
    runs.pause(run)
    assert not runs.is_held(hold, extend=True) and runs.claim("worker-2") is None
    assert outcomes(run) == [Outcome.STOPPED]
    assert runs.resume(run).status == Status.QUEUED
    assert claimed(run).token == 2


def test_a_failed_run_can_be_resumed_by_a_person():
    run = make_run()
    runs.give_back(claimed(run), Outcome.FAILED, code=runs.REFUSED)
    resumed = runs.resume(run)
    assert (resumed.status, resumed.failures, resumed.error_code) == (Status.QUEUED, 0, "")
    assert resumed.finished_at is None


def test_a_run_is_not_resumed_beside_another_of_its_teacher():
    run = make_run()
    runs.give_back(claimed(run), Outcome.FAILED, code=runs.REFUSED)
    make_run(teacher=run.teacher)
    with pytest.raises(RunOpen):
        runs.resume(run)
    assert reloaded(run).status == Status.FAILED


@pytest.mark.parametrize("change", [runs.pause, runs.cancel, runs.resume])
def test_a_finished_run_cannot_be_changed(change):
    run = make_run()
    runs.finish(claimed(run))
    with pytest.raises(RunFinished, match="succeeded"):
        change(run)


def test_canceling_twice_changes_nothing():
    run = make_run()
    hold = claimed(run)
    ended = runs.cancel(run)
    assert ended.status == Status.CANCELED and not runs.finish(hold)
    assert runs.cancel(run).finished_at == ended.finished_at
