"""Results, output and exit status of the commands."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from distillation.resumable import stages
from distillation.resumable.stages import Context, Stage
from distillation.starter import __main__ as command
from distillation.starter import captions, recipe, rendering
from distillation.training.errors import TrainingDiverged
from tests.distillation.starter import toys

ROOT = Path(__file__).resolve().parents[3]


@dataclasses.dataclass(frozen=True)
class Recipe:
    amount: int = 1


def write(context: Context) -> None:
    (context.folder / "product").write_text(str(context.recipe.amount))


def table(amount: int, build=write) -> tuple[Stage, ...]:
    return (
        Stage("flour", Recipe(amount), (), write),
        Stage("salt", Recipe(amount), (), write),
        Stage("pack", Recipe(amount), ("flour",), build),
    )


@pytest.fixture
def published(monkeypatch) -> list[Path]:
    """Replace the tables of stages by toys; return the folders that would have been published."""
    folders: list[Path] = []
    monkeypatch.setattr(recipe, "STAGES", table(1000))
    monkeypatch.setattr(recipe, "QUICK", table(1))
    monkeypatch.setattr(recipe, "publish", folders.append)
    return folders


def run(*arguments: str | Path) -> int:
    return command.main([str(argument) for argument in arguments])


def test_build_makes_all_stages_publishes_and_prints_their_times(tmp_path, published, capsys):
    assert run("build", "--data", tmp_path) == 0
    assert [folder.name.partition("-")[0] for folder in published] == ["pack"]
    assert (published[0] / "product").read_text() == "1000"
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines if "finished" in line]
    assert [row[0] for row in rows] == ["flour", "salt", "pack"]
    assert lines[-1].startswith("all")


def test_a_quick_build_uses_toy_recipes_and_publishes_nothing(tmp_path, published):
    assert run("build", "--quick", "--data", tmp_path) == 0
    assert [path.read_text() for path in tmp_path.glob("*/product")] == ["1"] * 3
    assert published == []


def test_only_some_stages_are_built_and_nothing_is_published(tmp_path, published, capsys):
    assert run("build", "--data", tmp_path, "--only", "salt") == 0
    assert [folder.name.partition("-")[0] for folder in tmp_path.iterdir()] == ["salt"]
    assert published == []
    assert "flour" not in capsys.readouterr().out


def test_photographs_used_in_no_training_are_written_as_files(tmp_path, capsys):
    count = recipe.QUICK_RECIPES.scenes.test
    toys.paint(tmp_path / "data" / "photographs-test-quick", {"test": count})
    assert run("photographs", tmp_path / "real", "--quick", "--data", tmp_path / "data") == 0
    files = sorted((tmp_path / "real").iterdir())
    assert len(files) == count and f"{count} photographs" in capsys.readouterr().out
    for path in files:
        *words, seed = path.stem.split("-")
        shot = next(shot for shot in rendering.shots("test", count) if shot.seed == int(seed))
        assert tuple(words) == dataclasses.astuple(shot.combination)
        with Image.open(path) as image:
            assert image.size == (128, 128) and image.getextrema() != ((0, 0),) * 3


def test_photographs_of_the_training_are_written_in_a_folder_for_each_prompt(tmp_path, capsys):
    folder = stages.folder_of(recipe.QUICK, tmp_path, "scenes")
    toys.paint(folder, {"train": recipe.QUICK_RECIPES.scenes.train})
    made = tmp_path / "real"
    assert run("photographs", made, "--training", "--quick", "--data", tmp_path) == 0
    files = sorted(made.glob("*/*.png"))
    assert files and f"{len(files)} photographs" in capsys.readouterr().out
    slugs = {combination.slug for combination in captions.catalogue()}
    assert {path.parent.name for path in files} <= slugs
    shots = {
        shot.seed: shot for shot in rendering.shots("train", recipe.QUICK_RECIPES.scenes.train)
    }
    assert all(shots[int(path.stem)].combination.slug == path.parent.name for path in files)


def test_status_shows_the_state_of_each_stage(tmp_path, published, capsys):
    run("build", "--data", tmp_path, "--only", "salt")
    capsys.readouterr()
    assert run("status", "--data", tmp_path) == 0
    states = dict(line.split()[:2] for line in capsys.readouterr().out.splitlines()[1:-1])
    assert states == {"flour": "absent", "salt": "finished", "pack": "absent"}


def test_ctrl_c_prints_that_the_same_command_continues(tmp_path, published, monkeypatch, capsys):
    def interrupt(context: Context) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(recipe, "STAGES", table(1000, interrupt))
    assert run("build", "--data", tmp_path) == 130
    assert capsys.readouterr().err.strip() == "Interrupted; the same command continues from here."
    assert published == []

    monkeypatch.setattr(recipe, "STAGES", table(1000))
    assert run("build", "--data", tmp_path) == 0
    assert "continuing" in capsys.readouterr().out
    assert len(published) == 1


def test_an_error_is_one_line_with_the_remedy(tmp_path, published, monkeypatch, capsys):
    def diverge(context: Context) -> None:
        raise TrainingDiverged(7, "loss", float("nan"))

    monkeypatch.setattr(recipe, "STAGES", table(1000, diverge))
    assert run("build", "--data", tmp_path) == 1
    assert "step 7" in capsys.readouterr().err
    assert run("build", "--data", tmp_path, "--only", "butter") == 1
    assert "no stage butter" in capsys.readouterr().err


def test_a_report_measures_the_published_release_and_a_quick_one_the_toy(
    tmp_path, published, monkeypatch
):
    from distillation.starter.report import writer as report

    calls = []

    def record(
        root: Path, pack: Path, judges: Path, *, docs: Path, student: Path | None, quick: bool
    ) -> Path:
        assert student is None
        calls.append((root, pack, judges, docs, quick))
        return docs / "starter.md"

    monkeypatch.setattr(report, "write", record)
    assert run("report", "--data", tmp_path) == 0
    assert run("report", "--quick", "--data", tmp_path) == 0
    full, quick = calls
    assert full[1:] == (
        ROOT / "generation/starter/teacher-2",
        ROOT / "distillation/starter/judges",
        ROOT / "docs",
        False,
    )
    assert quick[4] and all(path.is_relative_to(tmp_path) for path in quick[:4])

    rendered = []
    monkeypatch.setattr(report, "render", lambda docs, history: rendered.append(docs))
    assert run("report", "--render", "--data", tmp_path) == 0
    assert rendered == [ROOT / "docs"] and len(calls) == 2


@pytest.mark.parametrize(
    ("seconds", "text"), [(9.6, "10 s"), (65, "1 min 05 s"), (3600 + 61, "1 h 01 min")]
)
def test_durations_have_at_most_two_units(seconds, text):
    assert command._duration(seconds) == text


SLOW = """
import dataclasses, runpy, sys, time, types
from distillation.resumable.stages import Stage

@dataclasses.dataclass(frozen=True)
class Recipe:
    amount: int = 1

def sleep(context):
    (context.folder / "sleeps").touch()
    time.sleep(30)

# Replaces the real table, which takes seconds to import.
toy = types.ModuleType("distillation.starter.recipe")
toy.QUICK, toy.PACK = (Stage("pack", Recipe(), (), sleep),), "pack"
sys.modules[toy.__name__] = __import__("distillation.starter").starter.recipe = toy
runpy.run_module("distillation.starter", run_name="__main__", alter_sys=False)
"""


@pytest.mark.parametrize(
    ("number", "status", "message"),
    [
        (signal.SIGINT, 130, "continues from here"),
        pytest.param(signal.SIGTERM, 143, "", marks=pytest.mark.slow),
    ],
)
def test_a_signal_ends_the_process_and_keeps_the_time(tmp_path, number, status, message):
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, "build", "--quick", "--data", str(tmp_path)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    try:
        while not list(tmp_path.glob("pack-*/sleeps")):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.02)
        os.kill(process.pid, number)
        _, errors = process.communicate(timeout=300)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == status
    assert message in errors
    assert "Traceback" not in errors
    assert len(list(tmp_path.glob("pack-*/seconds.json"))) == 1
