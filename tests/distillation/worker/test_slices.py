"""Slices: a worker executes a run through interruptions, and the gate decides on the release."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from django.db import connection
from django.utils import timezone

from distillation import folders
from distillation.models import Run, Slice
from distillation.pipeline import overrides
from distillation.reports import evaluations
from distillation.resumable import progress
from distillation.resumable.stages import StageBusy, Status
from distillation.runs import approval, policy, promotion, yielding
from distillation.runs import lifecycle as runs
from distillation.training import loop
from distillation.worker import process, slices
from distillation.worker.lease import Holding
from generation.catalogue import encoding
from generation.errors import FileMissing, StorageFailed
from generation.infra import heartbeat
from generation.jobs import routing
from generation.models import Job, PromptVariant, Release
from tests.distillation.factories import make_run
from tests.distillation.toys import SMALL
from tests.factories import make_job, make_variant

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def run(teacher, detector, settings) -> Iterator[Run]:
    settings.DISTILLATION_DETECTOR = str(detector)
    settings.SLICE_SECONDS = 1000
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(policy, "new_name", lambda: "toy-run")  # the same in each test
        started = policy.start(recipe={"recipe": "starter-1step", **overrides.parse(SMALL)})
    yield started
    heartbeat.stopping.clear()


def reloaded(run: Run) -> Run:
    return Run.objects.get(pk=run.pk)


def outcomes(run: Run) -> list[str]:
    return list(run.slices.values_list("outcome", flat=True))


def root(settings) -> Path:
    return settings.DATA_DIR / "distillation"


@pytest.mark.slow
def test_a_run_with_two_prompts_ends_with_a_candidate(run, settings, stages):
    process.run()
    stages.keep()
    run = reloaded(run)
    assert (run.status, run.error_detail) == ("succeeded", "")
    assert (run.percent, run.variants, run.outcome) == (100.0, 2, "candidate")
    assert outcomes(run) == [Slice.Outcome.FINISHED]
    release = Release.objects.get(name=run.name)
    assert (run.release, release.status) == (release, "candidate")
    failed = [check for check in run.gate["checks"] if not check["passed"]]
    assert "20 are enough" in failed[0]["detail"]
    assert set(run.folders) >= {"pairs", "structure", "joint", "evaluation", "gate", "release"}
    assert (root(settings) / run.folders["evaluation"] / "report.html").exists()


def test_the_percentage_does_not_fall_when_a_stage_begins_another_bar(monkeypatch, tmp_path):
    monkeypatch.setattr(slices, "NOTE_SECONDS", 0.0)
    run, holding = make_run(), Holding()
    _, hold = runs.claim("worker-1")
    holding.take(hold)
    table = [Status(name, "absent", 0.0, tmp_path, 0) for name in ("evaluation", "gate")]
    watch = slices._Watch(holding, table)
    watch.enter(table[0])
    percents = []
    for title, done in (
        ("pictures of the student", 9),
        ("pictures of the teacher", 1),
        ("judging", 10),
    ):
        watch(title, done, 10)
        percents.append(reloaded(run).percent)
    assert percents[0] == percents[1] < percents[2]


@pytest.mark.slow
def test_a_run_in_many_slices_makes_the_same_student(run, settings, monkeypatch):
    """A slice that is over stops after the running step; the next one continues from there."""
    settings.SLICE_SECONDS = 0.0  # over as soon as it has done anything
    monkeypatch.setattr(runs, "renew", lambda hold, **fields: None)  # as if another run waited
    count = 0
    while reloaded(run).is_open:
        process.run()
        count += 1
        assert count < 100
    run = reloaded(run)
    assert run.status == "succeeded" and run.token == count > 15
    assert outcomes(run) == [Slice.Outcome.OVER] * (count - 1) + [Slice.Outcome.FINISHED]
    percents = list(run.slices.values_list("percent", flat=True))
    assert percents == sorted(percents) and percents[-1] == 100

    other = policy.start(recipe=run.recipe, is_warm=False)
    settings.SLICE_SECONDS = 1000
    process.run()
    whole = reloaded(other)
    assert {name: folder for name, folder in whole.folders.items() if name in loop_stages(run)} == {
        name: folder for name, folder in run.folders.items() if name in loop_stages(run)
    }


def loop_stages(run: Run) -> set[str]:
    return {"pairs", "decoder", "structure", "regression", "joint", "quantise"}


@pytest.mark.slow
def test_the_same_worker_continues_if_nothing_waits(run, settings, stages):
    stages.take(without="joint")
    settings.SLICE_SECONDS = 0.05
    process.run()
    run = reloaded(run)
    assert run.status == "succeeded" and run.token > 1
    assert set(outcomes(run)[:-1]) == {Slice.Outcome.OVER}


@pytest.mark.parametrize("change", [runs.pause, runs.cancel])
def test_a_run_that_is_stopped_by_a_person_stops_after_the_step(run, monkeypatch, change):
    steps = []
    seed_of = loop._seed_of

    def counted(seed: int, index: int, rank: int) -> int:
        steps.append(index)
        if len(steps) == 3:
            change(run)
            process.holding.keep()  # what the heartbeat thread does
        return seed_of(seed, index, rank)

    monkeypatch.setattr(loop, "_seed_of", counted)
    process.run()
    assert len(steps) == 3
    assert outcomes(run) == [Slice.Outcome.STOPPED]
    assert reloaded(run).status in ("paused", "canceled")
    assert not Release.objects.filter(name=run.name).exists()


def test_training_waits_while_a_job_is_queued_and_a_worker_that_is_ending_queues_its_run_again(
    run, monkeypatch
):
    """While a job is queued no step is made; when it has ended the run continues."""
    seed_of, waited, steps = loop._seed_of, [], []

    def counted(*arguments: int) -> int:
        steps.append(len(waited))
        if len(steps) == 1:
            make_job(variant=PromptVariant.objects.first(), release=run.teacher)
        else:
            heartbeat.stopping.set()
        return seed_of(*arguments)

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            Job.objects.update(status="canceled", finished_at=timezone.now())

    monkeypatch.setattr(loop, "_seed_of", counted)
    monkeypatch.setattr(yielding, "LOOK_SECONDS", 0.0)  # after every step
    monkeypatch.setattr(yielding, "time", SimpleNamespace(sleep=sleep))
    process.run()
    assert steps == [0, 3]
    assert reloaded(run).status == "queued" and outcomes(run) == [Slice.Outcome.STOPPED]
    process.run()  # a process that ends takes nothing new
    assert reloaded(run).token == 1


def test_a_run_whose_catalogue_is_missing_starts_again(run, settings, monkeypatch):
    monkeypatch.setattr(slices.Chain, "build", _stopped)
    process.run()
    snapshot = root(settings) / reloaded(run).catalogue
    shutil.rmtree(
        snapshot
    )  # as after the restoration of a backup, which leaves folders of runs out
    process.run()
    assert outcomes(run) == [Slice.Outcome.OVER] * 2
    assert reloaded(run).status == "queued" and snapshot.is_dir()


def _stopped(*_: object, **__: object) -> None:
    raise progress.SliceOver


@pytest.mark.slow
def test_a_run_pauses_when_the_disk_is_nearly_full_and_continues_when_resumed(
    run, monkeypatch, stages
):
    seen = iter([10.0, 10.0])
    monkeypatch.setattr(folders, "free_gib", lambda: next(seen, 1.9))
    process.run()
    stopped = reloaded(run)
    assert (stopped.status, stopped.error_code) == ("paused", "disk_full")
    assert "1.9 GiB free" in stopped.error_detail and outcomes(run) == [Slice.Outcome.STOPPED]

    monkeypatch.setattr(folders, "free_gib", lambda: 10.0)
    runs.resume(stopped)
    stages.take(without="joint")
    process.run()
    ended = reloaded(run)
    assert (ended.status, ended.error_code, ended.error_detail) == ("succeeded", "", "")


def test_an_unsuitable_recipe_fails_at_once_with_the_field(run):
    Run.objects.filter(pk=run.pk).update(recipe={"recipe": "sd15-tiny-1step"})
    process.run()
    run = reloaded(run)
    assert (run.status, run.error_code) == ("failed", "refused")
    assert "image_size" in run.error_detail


def test_a_crash_ends_the_slice_and_the_third_one_the_run(run, monkeypatch):
    def crash(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(slices, "_chain", crash)
    for _ in range(3):
        process.run()
        Run.objects.filter(pk=run.pk).update(not_before=None)
    run = reloaded(run)
    assert (run.status, run.error_code) == ("failed", "internal_error")
    assert "No space left" in run.error_detail and outcomes(run) == [Slice.Outcome.FAILED] * 3


def _storage_fails() -> None:
    raise StorageFailed("images/ab: Input/output error.")


def _session_is_cut() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")


@pytest.mark.parametrize("fail", [_storage_fails, _session_is_cut])
def test_faults_of_storage_and_database_pause_a_run_and_do_not_count(run, monkeypatch, fail):
    monkeypatch.setattr(slices, "_chain", lambda *_: fail())
    for _ in range(4):
        process.run()
        paused = reloaded(run)
        assert (paused.status, paused.failures) == ("queued", 0)
        assert paused.not_before is not None
        Run.objects.filter(pk=run.pk).update(not_before=None)
    assert outcomes(run) == [Slice.Outcome.FAILED] * 4


def test_a_missing_file_ends_a_run_at_once(run, monkeypatch):
    def fail(*_: object) -> None:
        raise FileMissing("The file images/ab is missing.")

    monkeypatch.setattr(slices, "_chain", fail)
    process.run()
    assert reloaded(run).status == "failed"


def test_a_run_whose_stage_a_person_builds_is_queued_again(monkeypatch):
    def busy(*_: object) -> None:
        raise StageBusy("The stage 'pairs' is being built by another process (id 7).")

    run = make_run()
    monkeypatch.setattr(slices, "_chain", busy)
    process.run()
    run = reloaded(run)
    assert (run.status, run.failures) == ("queued", 0)
    assert "id 7" in run.slices.get().error_detail


# --- outcomes of the release ----------------------------------------------------------------------
@pytest.fixture
def made(run, stages) -> tuple[Run, dict[str, Path]]:
    """A run with all its stages, held by this process and not concluded."""
    found = {}
    stages.take()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(promotion, "conclude", lambda row, hold, folders: found.update(folders))
        patch.setattr(slices.runs, "give_back", lambda *_, **__: None)
        process.run()
    stages.keep()
    return reloaded(run), found


def decided(made: tuple[Run, dict[str, Path]], *, passed: bool) -> Run:
    row, folders = made
    path = folders["gate"] / "gate.json"
    path.write_text(json.dumps({"passed": passed, "checks": []}))
    promotion.conclude(row, runs.Hold(row.pk, row.token), folders)
    return reloaded(row)


@pytest.mark.slow
def test_a_second_run_continues_the_student_of_the_first(made, settings):
    first = decided(made, passed=True)
    assert (first.outcome, first.status) == ("promoted", "succeeded")
    assert routing.resolve(None, slug="a-red-clay-vase").release == first.release
    make_variant(text="a green metal cone")
    encoding.encode_missing()
    second = policy.start(recipe=first.recipe)
    assert second.begins_with == first.release
    process.run()
    second = reloaded(second)
    assert (second.status, second.variants, second.replaces) == ("succeeded", 3, first.release)
    assert {"start", "incumbent"} <= set(second.folders) and "structure" not in second.folders
    assert second.release.coverage.count() == 3
    ours, active = (
        evaluations.figures(folders.stage(second, name)) for name in ("evaluation", "incumbent")
    )
    seeds = {row["slug"]: row["seeds"] for row in ours["per_prompt"]}
    assert ours["fresh_from"] == active["fresh_from"] == second.name
    assert all(row["seeds"] == seeds[row["slug"]] for row in active["per_prompt"])


@pytest.mark.slow
def test_measuring_again_trains_nothing_again(made):
    row, built = made
    check = {"name": "diversity to teacher", "passed": False, "limit": 0.8, "found": 0.82, "low": 0.7, "high": 0.9,
             "detail": "", "decided": False, "seeds_to_decide": 3}  # fmt: skip
    (built["gate"] / "gate.json").write_text(json.dumps({"passed": False, "checks": [check]}))
    promotion.conclude(row, runs.Hold(row.pk, row.token), built)
    first = reloaded(row)
    assert first.outcome == "candidate" and "diversity" in first.outcome_reason
    second = approval.measure_again(first, seeds=3, by=None)
    process.run()
    second = reloaded(second)
    trained = ("pairs", "structure", "joint", "quantise")
    assert [second.folders[name] for name in trained] == [first.folders[name] for name in trained]
    figures = evaluations.figures(folders.stage(second, "evaluation"))
    assert (figures["seeds_each"], figures["fresh_from"]) == (3, second.name)
