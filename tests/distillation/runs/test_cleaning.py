"""Cleanup: folders that nothing needs are deleted; those that a run, a person or a page may need are kept."""

import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import call_command
from django.db import connection
from django.utils import timezone

from distillation import folders
from distillation.models import Design, Run
from distillation.pipeline import overrides
from distillation.pipeline.stages import Chain
from distillation.reports import evaluations
from distillation.runs import cleaning, inputs
from generation.models import PromptVariant, Release
from tests.distillation.factories import make_run
from tests.distillation.reporting import figures, write_stage
from tests.distillation.toys import SMALL
from tests.factories import make_release, make_variant

pytestmark = pytest.mark.django_db

KEY = "0123456789abcdef"


def stage(name: str, key: str = KEY, **files: object) -> str:
    """Write a finished stage's folder and return its name."""
    write_stage(
        f"{name}-{key}", {"done.json": {}, "build.lock": "1\n", "weights": b"x" * 100, **files}
    )
    return f"{name}-{key}"


def there() -> set[str]:
    return {path.name for path in folders.root().iterdir()} - {"reports", "pictures", "pairs"}


def ended(number: int, **fields: object) -> Run:
    """Create a run that ended `number` days ago, with its own folders: joint, evaluation and a snapshot."""
    key = f"{number:016x}"
    made = {name: stage(name, key) for name in ("joint", "evaluation")}
    write_stage(f"evaluation-{key}", {"evaluation.json": figures(), "report.html": "<h1>"})
    write_stage(f"catalogue-{key}", {"catalogue.json": {}})
    at = timezone.now() - timezone.timedelta(days=number)
    fields = {"status": "succeeded", "finished_at": at} | fields
    return make_run(name=f"run-{number}", folders=made, catalogue=f"catalogue-{key}", **fields)


def age(path: Path, days: float) -> None:
    at = time.time() - days * 24 * 3600
    for inner in (*path.rglob("*"), path):
        os.utime(inner, (at, at))


def test_the_latest_runs_keep_their_folders_and_older_ones_their_reports():
    runs = [ended(number) for number in (1, 2, 3)]
    removed = cleaning.clean()
    key = f"{3:016x}"
    assert {row.place for row in removed} == {
        f"joint-{key}",
        f"evaluation-{key}",
        f"catalogue-{key}",
    }
    assert all(row.why == "no run needs it" for row in removed)
    assert sum(row.size_bytes for row in removed) > 200
    assert there() == {n for run in runs[:2] for n in (*run.folders.values(), run.catalogue)}
    assert evaluations.read("run-3") is not None
    assert cleaning.clean() == []


def test_folders_that_an_open_run_shares_with_an_old_one_stay():
    runs = [ended(number) for number in (1, 2, 3, 4)]
    open_run = make_run(folders={"joint": runs[3].folders["joint"]}, catalogue=runs[2].catalogue)
    cleaning.clean(kept_runs=0)
    assert there() == {open_run.folders["joint"], open_run.catalogue}


@pytest.mark.parametrize("status", ["queued", "running", "paused"])
def test_the_snapshot_of_an_unfinished_design_stays(status):
    old = ended(1)
    lease = timezone.now() if status == "running" else None
    design = Design.objects.create(
        key=KEY, recipe={}, teacher=old.teacher, hours=1, status=status, lease_expires_at=lease,
        catalogue=old.catalogue,
    )  # fmt: skip
    age(folders.root(), 40)
    cleaning.clean(kept_runs=0)
    assert there() == {old.catalogue}
    Design.objects.filter(pk=design.pk).update(
        status="canceled", lease_expires_at=None, finished_at=timezone.now()
    )
    cleaning.clean(kept_runs=0)
    assert there() == set()


def test_a_canceled_run_keeps_nothing():
    run = ended(1, status="canceled")
    assert {row.place for row in cleaning.clean()} == {*run.folders.values(), run.catalogue}


def test_stages_of_unknown_origin_stay_for_a_month():
    stage("structure")
    write_stage("catalogue-" + KEY, {"catalogue.json": {}})
    assert cleaning.clean() == []
    age(folders.root() / f"structure-{KEY}", 31)
    assert [row.place for row in cleaning.clean()] == [f"structure-{KEY}"]
    assert there() == {f"catalogue-{KEY}"}


def test_folders_that_are_no_stages_are_never_touched():
    for name in ("notes", "my-folder-" + KEY, "reports/run-1"):
        write_stage(name, {"file": "mine"})
    age(folders.root(), 400)
    assert cleaning.clean() == []
    assert {"notes", "my-folder-" + KEY, "reports"} <= {p.name for p in folders.root().iterdir()}


@pytest.fixture
def locked() -> Iterator[str]:
    """A locked stage, as while somebody builds it by hand."""
    name = stage("structure", "f" * 16)
    with (folders.root() / name / "build.lock").open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield name


def test_no_stage_is_removed_while_one_is_built_by_hand(locked):
    run = ended(1)
    age(folders.root() / locked, 90)
    assert cleaning.clean(kept_runs=0) == []
    assert {locked, *run.folders.values()} <= there()


def test_a_run_that_holds_its_own_stage_does_not_keep_others_from_being_removed():
    old, name = ended(1), stage("joint", "e" * 16)
    make_run(folders={"joint": name})
    with (folders.root() / name / "build.lock").open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        cleaning.clean(kept_runs=0)
    assert there() == {name} and old.folders["joint"] not in there()


def test_a_release_that_is_registered_in_a_stages_folder_stays():
    run = ended(1)
    place = folders.root() / run.folders["joint"] / "release"
    place.mkdir()
    make_release(path=str(place))
    cleaning.clean(kept_runs=0)
    assert there() == {run.folders["joint"]}


def test_temporary_files_of_killed_processes_are_removed_after_a_day():
    write_stage(".replacing-abc/unet", {"weights": b"xx"})
    write_stage("", {".catalogue.json.77": "{"})
    assert cleaning.clean() == []
    age(folders.root(), 2)
    assert {row.place for row in cleaning.clean()} == {".replacing-abc", ".catalogue.json.77"}
    assert there() == set()


def test_stages_of_designs_stay_for_a_month_after_their_last_use():
    for name, days in ((f"joint-{'a' * 16}", 40), (f"joint-{'b' * 16}", 20)):
        write_stage(f"designs/{name}", {"done.json": {}})
        age(folders.root() / "designs" / name, days)

    assert [removed.place for removed in cleaning.clean()] == [f"designs/joint-{'a' * 16}"]
    assert [path.name for path in (folders.root() / "designs").iterdir()] == [f"joint-{'b' * 16}"]


def test_a_dry_run_removes_nothing_and_reports_the_same():
    ended(1)
    before = there()
    planned = cleaning.clean(kept_runs=0, is_dry=True)
    assert there() == before and evaluations.read("run-1") is None
    assert cleaning.clean(kept_runs=0) == planned and there() == set()


def test_pictures_of_releases_that_are_measured_again_stay():
    teacher = make_release(name="teacher-x", kind="teacher", status="retired")
    make_release(name="serves", status="active")
    run = ended(1, teacher=teacher, release=make_release(name="run-1", status="rejected"))
    make_release(name="forgotten", status="rejected")
    names = ("teacher-x", "serves", run.name, "forgotten", "by-hand")
    for name in names:
        write_stage(f"pictures/{name}-{KEY}", {"1.png": b"PNG"})
    age(folders.root() / "pictures", 2)
    assert [row.place for row in cleaning.clean()] == [f"pictures/forgotten-{KEY}"]
    age(folders.root() / "pictures", 31)
    assert [row.place for row in cleaning.clean()] == [f"pictures/by-hand-{KEY}"]
    left = {path.name for path in (folders.root() / "pictures").iterdir()}
    assert left == {f"{name}-{KEY}" for name in ("teacher-x", "serves", "run-1")}


def test_pictures_of_an_open_decision_stay():
    teacher = make_release(name="teacher-x", kind="teacher", status="retired")
    active = make_release(name="was-active", status="retired")
    run = ended(40, teacher=teacher, replaces=active, outcome="candidate",
                release=make_release(name="run-40", status="candidate"))  # fmt: skip
    [ended(number) for number in (1, 2, 3)]
    for name in ("teacher-x", "was-active", "run-40"):
        write_stage(f"pictures/{name}-{KEY}", {"1.png": b"PNG"})
    age(folders.root() / "pictures", 31)
    cleaning.clean()
    assert len(list((folders.root() / "pictures").iterdir())) == 3
    Release.objects.filter(pk=run.release_id).update(status="rejected")
    cleaning.clean()
    assert list((folders.root() / "pictures").iterdir()) == []


# --- pairs ----------------------------------------------------------------------------------------
@pytest.fixture
def made(teacher, detector, settings, tmp_path, stages) -> Run:
    """A run that has made the pairs of both variants, which are old."""
    settings.DISTILLATION_DETECTOR = str(detector)
    description = {"recipe": "starter-1step", **overrides.parse(SMALL)}
    (tmp_path / "recipe.json").write_text(json.dumps(description))
    settings.DISTILLATION_RECIPE = str(tmp_path / "recipe.json")
    given = inputs.gather(teacher)
    chain = Chain(inputs.recipe_of(description), given, name="any")
    stages.take()
    found = chain.build(folders.root(), only=["pairs"], progress_bar=False)
    stages.keep()
    age(folders.root() / "pairs", 31)
    return make_run(
        teacher=teacher, recipe=description, catalogue=given.catalogue.name,
        folders={"pairs": found["pairs"].name}, status="failed", finished_at=timezone.now(),
    )  # fmt: skip


def pairs() -> int:
    return len(list((folders.root() / "pairs").glob("*/*.safetensors")))


def archive(text: str) -> None:
    PromptVariant.objects.filter(text=text).update(status="archived")


def test_old_pairs_stay_while_a_variant_or_a_kept_run_needs_them(made):
    archive("a blue glass mug")
    before = there()
    assert cleaning.clean(kept_runs=1) == [] and pairs() == 2
    (removed,) = [row for row in cleaning.clean(kept_runs=0) if row.place.startswith("pairs/")]
    assert (removed.files, pairs()) == (1, 1)
    assert before - there() == {made.catalogue, made.folders["pairs"]}


def test_an_open_run_keeps_the_pairs_of_its_snapshot(made):
    (folders.root() / made.folders["pairs"] / "pairs.json").unlink()
    Run.objects.filter(pk=made.pk).update(status="queued", finished_at=None)
    archive("a blue glass mug")
    assert cleaning.clean(kept_runs=0) == [] and pairs() == 2


def test_recent_pairs_stay(made):
    archive("a blue glass mug")
    age(folders.root() / "pairs", 29)
    cleaning.clean(kept_runs=0)
    assert pairs() == 2


def test_all_pairs_stay_while_no_snapshot_can_be_taken(made):
    archive("a blue glass mug")
    make_variant(text="a green cone")  # not encoded yet: no snapshot can be taken
    cleaning.clean(kept_runs=0)
    assert pairs() == 2


def test_pairs_of_a_retired_teacher_are_removed(made):
    Release.objects.update(status="retired")
    cleaning.clean(kept_runs=0)
    assert pairs() == 0 and list((folders.root() / "pairs").iterdir()) == []


# --- the command ----------------------------------------------------------------------------------
def test_the_command_prints_folders_and_sizes():
    ended(1)
    out = StringIO()
    call_command("run", "clean", "--keep", "0", "--dry-run", stdout=out)
    assert (
        f"joint-{1:016x}: no run needs it" in out.getvalue()
        and "would be deleted." in out.getvalue()
    )
    out = StringIO()
    call_command("run", "clean", "--keep", "0", stdout=out)
    assert out.getvalue().strip().endswith("deleted.") and there() == set()
    out = StringIO()
    call_command("run", "clean", stdout=out)
    assert out.getvalue() == "Nothing to delete.\n"


@pytest.mark.django_db(transaction=True)
def test_folders_are_read_and_deleted_outside_of_the_transaction_that_locks_the_open_runs(
    monkeypatch,
):
    """On a network disk this takes longer than a lease."""
    ended(1)
    seen = []

    def noting(function: Callable[[Path], object]) -> Callable[[Path], object]:
        def noted(path: Path) -> object:
            seen.append(connection.in_atomic_block)
            return function(path)

        return noted

    for name in ("_within", "_delete"):
        monkeypatch.setattr(cleaning, name, noting(getattr(cleaning, name)))

    assert len(cleaning.clean(kept_runs=0)) == 3

    assert len(seen) >= 6 and not any(seen)


def test_a_folder_that_a_run_needs_meanwhile_stays(monkeypatch):
    run = ended(1)
    size = cleaning._size

    def start_run(path: Path) -> int:
        if not Run.objects.filter(status="queued").exists():
            make_run(folders={"joint": run.folders["joint"]})
        return size(path)

    monkeypatch.setattr(cleaning, "_size", start_run)

    removed = {row.place for row in cleaning.clean(kept_runs=0)}

    assert removed == {run.folders["evaluation"], run.catalogue}
    assert there() == {run.folders["joint"]}


def test_a_folder_where_a_release_is_registered_meanwhile_stays(monkeypatch):
    run = ended(1)
    place = folders.root() / run.folders["joint"] / "release"
    size = cleaning._size

    def register(path: Path) -> int:
        if not place.exists():
            place.mkdir()
            make_release(path=str(place))
        return size(path)

    monkeypatch.setattr(cleaning, "_size", register)

    removed = {row.place for row in cleaning.clean(kept_runs=0)}

    assert removed == {run.folders["evaluation"], run.catalogue}
    assert place.is_dir()


def test_a_folder_that_another_cleaning_has_removed_meanwhile_is_left_out(monkeypatch):
    run = ended(1)
    size = cleaning._size

    def remove(path: Path) -> int:
        found = size(path)
        if path.name == run.folders["joint"]:
            shutil.rmtree(path)
        return found

    monkeypatch.setattr(cleaning, "_size", remove)

    removed = {row.place for row in cleaning.clean(kept_runs=0)}

    assert removed == {run.folders["evaluation"], run.catalogue}
    assert there() == set()
