"""`manage.py design` at toy size: the search, its results, its refusals, and resumption after a kill."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from io import StringIO

import pytest
from django.conf import settings as django_settings
from django.core.management import call_command
from django.core.management.base import CommandError

from distillation.designs import lifecycle as designs
from distillation.designs.candidates import Rows
from distillation.models import Design, DesignCandidate
from distillation.runs import inputs, recipe_descriptions
from tests.distillation.toys import SMALL
from tests.web import database_url

RECIPE = ("--recipe", "starter-1step", "--hours", "1")
SET = tuple(part for change in SMALL for part in ("--set", change))


def design(*arguments: str) -> str:
    out = StringIO()
    command = ("design", *RECIPE, *SET, *arguments)
    call_command(*command, stdout=out, stderr=StringIO(), verbosity=0)
    return out.getvalue()


@pytest.fixture(autouse=True)
def torch_computes(settings):
    settings.RUNTIME = "torch"  # a conversion for every candidate would take most of the time


@pytest.mark.slow
@pytest.mark.django_db
def test_a_search_ends_with_a_front_a_choice_and_a_recipe_that_distill_accepts(teacher, detector):
    judged = ("--detector", str(detector))
    output = design(*judged, "--candidates", "2", "--size", "5MB", "--wish", "smallest")

    row = Design.objects.get()
    assert (row.status, row.percent) == ("succeeded", 100)
    assert row.reason in output and "smallest" in row.reason
    first, second = Rows(row).read()
    assert first.params["timesteps"] == "625"  # the recipe itself
    assert first.costs.size > 0 < first.costs.time and first.costs.memory > 10**8
    # The better candidate continued to the whole training.
    assert sorted(len(one.rungs) for one in (first, second)) == [1, 4]
    folder = designs.output(row)
    names = {path.name for path in folder.iterdir()}
    assert {"front.png", "front.svg", "front.csv", "report.html", "report.md"} <= names
    assert {path.name for path in (folder / "sheets").iterdir()} == {
        "candidate-0.webp",
        "candidate-1.webp",
    }
    table = list(csv.DictReader((folder / "front.csv").read_text("utf-8").splitlines()))
    assert [int(line["size_bytes"]) for line in table] == [first.costs.size, second.costs.size]
    recipe = inputs.recipe_of(recipe_descriptions.described(str(folder / "recipe.json")))
    chosen = Rows(row).read()[row.choice]
    assert recipe.student.cut == chosen.params["cut"] and recipe.structure.steps == 2
    # Pairs and the teacher's pictures were made once; the VAE's pictures are shared too.
    root = designs.root()
    assert len(list(root.glob("pairs-*"))) == 1
    assert len(list((root / "pictures").glob("toy-*"))) == 1
    assert list(root.glob("drawn/*/*.safetensors"))

    before = Design.objects.get().seconds
    assert row.reason in design(*judged, "--candidates", "2", "--size", "5MB", "--wish", "smallest")
    assert DesignCandidate.objects.count() == 2 and Design.objects.get().seconds < before + 60


@pytest.mark.django_db
@pytest.mark.slow
def test_limits_that_no_candidate_meets_train_nothing_and_give_the_nearest_ones(teacher, detector):
    output = design("--detector", str(detector), "--candidates", "2", "--size", "1kB")

    row = Design.objects.get()
    assert (row.status, row.choice) == ("succeeded", None)
    assert "None of 2 measured candidates is within the limits" in output
    assert "size: " in output and "for a limit of 1 kB" in output
    assert not list(designs.root().glob("structure-*"))
    assert not (designs.output(row) / "recipe.json").exists()


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--size", "8"), "MB"),
        (("--time", "12ms@cuda:7"), r"no device 'cuda:7'. It has cpu"),
        (("--quality", "97"), "0.97"),
        (("--hours", "0"), "hours"),
        (("--tags", "nothing"), "nothing"),
        (("--set", "joint=null"), "joint"),
        (("--student", "toy"), "teacher"),
        (("--teacher", "nobody"), "nobody"),
    ],
)
def test_invalid_options_are_refused_before_anything_is_made(teacher, detector, arguments, named):
    with pytest.raises(CommandError, match=named):
        design("--detector", str(detector), *arguments)
    assert not list(django_settings.DATA_DIR.rglob("done.json")) and not Design.objects.exists()


def wait_until(look: Callable[[], object], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 900  # a machine may be busy
    while not look():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_a_killed_search_continues_with_the_same_command_and_loses_nothing(
    teacher, detector, settings, tmp_path
):
    command = [
        sys.executable, "manage.py", "design", *RECIPE, *SET, "--detector", str(detector), "--candidates", "2",
    ]  # fmt: skip
    env = os.environ | {
        "DATABASE_URL": database_url(), "DATA_DIR": str(settings.DATA_DIR), "RUNTIME": "torch",
        "REDIS_URL": settings.REDIS_URL,
    }  # fmt: skip

    def begin() -> subprocess.Popen[bytes]:
        with (tmp_path / "log").open("a") as log:
            return subprocess.Popen(command, cwd=settings.BASE_DIR, env=env, stdout=log, stderr=log)

    def judged() -> int:
        return sum(len(row.rungs) for row in DesignCandidate.objects.all())

    first = begin()
    wait_until(lambda: judged() > 0, first)
    first.send_signal(signal.SIGKILL)
    first.wait()
    [killed] = [row for row in DesignCandidate.objects.all() if row.rungs]
    done = {path: path.stat().st_mtime_ns for path in designs.root().rglob("done.json")}

    before = judged()
    second = begin()
    wait_until(lambda: judged() > before, second)  # further rungs are left
    second.send_signal(signal.SIGTERM)
    assert second.wait(600) == 128 + signal.SIGTERM, (tmp_path / "log").read_text()
    assert Design.objects.get().status == "paused"

    third = begin()
    assert third.wait(900) == 0, (tmp_path / "log").read_text()
    row = Design.objects.get()
    assert (row.status, row.choice is not None) == ("succeeded", True)
    again = DesignCandidate.objects.get(pk=killed.pk)
    assert again.rungs[: len(killed.rungs)] == killed.rungs and again.costs == killed.costs
    assert done == {path: path.stat().st_mtime_ns for path in done}
    folder = json.loads((designs.output(row) / "design.json").read_text("utf-8"))
    assert len(folder["candidates"]) == 2
