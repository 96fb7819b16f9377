"""`manage.py distill` with every stage, at toy size, on a teacher with the layout of Stable Diffusion 1.5."""

import json
import os
import runpy
import subprocess
import sys
from io import StringIO

import pytest
from django.conf import settings
from django.core.management import call_command
from django.core.management.base import CommandError
from safetensors.torch import load_file

from generation.catalogue import encoding
from generation.engine import pipeline
from generation.engine.networks import WEIGHTS
from generation.engine.request import GenerationRequest
from generation.models import Embedding, Quality, Release
from generation.releases import lifecycle as releases
from tests.distillation.toys import SMALL
from tests.factories import make_variant

pytestmark = pytest.mark.django_db


def distil(*arguments: str, changes: tuple[str, ...] = SMALL) -> str:
    out = StringIO()
    settings = [part for change in changes for part in ("--set", change)]
    call_command(
        "distill",
        "--recipe",
        "starter-1step",
        *settings,
        *arguments,
        stdout=out,
        stderr=StringIO(),
        verbosity=0,
    )
    return out.getvalue()


def test_distill_makes_an_active_student_and_a_second_call_repeats_nothing(
    teacher, settings, detector, stages
):
    judged = ("--detector", str(detector))
    changes = (*SMALL, "labels.weight=0.1")
    output = distil(*judged, "--name", "toy-student", "--activate", changes=changes)
    stages.keep()

    student = Release.objects.get(name="toy-student")
    assert (student.kind, student.status) == ("student", "active")
    assert "toy-student" in output
    manifest = releases.verify(student)
    assert manifest.parent == "toy"
    assert manifest.timesteps == [625]
    assert manifest.has_encoder is False
    assert sorted(manifest.covered_variants) == sorted(
        Embedding.objects.values_list("variant__slug", flat=True)
    )
    assert manifest.evaluation["teacher"] == "toy"
    assert manifest.recipe["structure"]["steps"] == 2
    (curve,) = (settings.DATA_DIR / "distillation").glob("joint-*/metrics.jsonl")
    assert json.loads(curve.read_text("utf-8").splitlines()[-1])["labels"] >= 0
    report = next((settings.DATA_DIR / "distillation").glob("evaluation-*/report.html"))
    assert "toy-student" in report.read_text("utf-8")
    figures = json.loads(report.with_name("evaluation.json").read_text("utf-8"))
    assert (figures["fresh_from"], figures["seeds_each"]) == ("toy-student", 2)
    assert manifest.evaluation["core"]["seeds_each"] == 2
    assert not list(
        (settings.DATA_DIR / "distillation").glob(".fresh-*")
    )  # no other run can use them

    loaded = pipeline.load(releases.folder(student), device="cpu", dtype="float32")
    stored = Embedding.objects.first().stored()
    (result,) = loaded.generate([GenerationRequest(stored, 7, 64, 64)])
    assert result.pixels.shape == (64, 64, 3)

    written = {
        path: path.stat().st_mtime_ns
        for path in (settings.DATA_DIR / "distillation").rglob("done.json")
    }
    assert "already registered" in distil(*judged, "--name", "toy-student", changes=changes)
    assert written == {path: path.stat().st_mtime_ns for path in written}


def test_the_name_of_another_release_is_refused_before_anything_is_trained(
    teacher, detector, settings
):
    with pytest.raises(CommandError, match=r"named toy.*another name"):
        distil("--detector", str(detector), "--name", "toy", "--activate")
    assert not list((settings.DATA_DIR / "distillation").glob("pairs*"))


@pytest.mark.slow
def test_the_training_of_a_student_continues_for_a_catalogue_that_grew(teacher, settings, detector):
    judged = ("--detector", str(detector))
    distil(*judged, "--name", "first", "--activate")
    make_variant(text="a green metal cone")
    encoding.encode_missing()
    root = settings.DATA_DIR / "distillation"
    before = {path: path.stat().st_mtime_ns for path in root.glob("pairs/*/*")}

    distil(*judged, "--name", "second", "--student", "first")

    second = Release.objects.get(name="second")
    assert len(releases.verify(second).covered_variants) == 3
    assert len(list(root.glob("pairs/*/*"))) == len(before) + 1 == 3
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert len(list(root.glob("structure-*"))) == len(list(root.glob("decoder-*"))) == 1
    (start,) = root.glob("start-*")
    ours, its = (
        load_file(folder / "unet" / WEIGHTS)["conv_in.weight"]
        for folder in (start, next(root.glob("quantise-*")))
    )
    assert (ours - its).abs().max() < 0.05  # the served weights: int8, multiplied out

    distil(*judged, "--name", "third", "--student", "second", "--new-decoder")
    third = releases.folder(Release.objects.get(name="third"))
    assert json.loads((third / "vae/config.json").read_text("utf-8"))["out_channels"] == 48
    assert releases.verify(Release.objects.get(name="third")).recipe["structure"] is None


@pytest.mark.slow
def test_a_part_of_the_catalogue_gets_a_specialist(teacher, settings, detector):
    judged = ("--detector", str(detector))
    distil(*judged, "--name", "main", "--activate")
    part = ("--tags", "vase", "--student", "main", "--name", "vases")
    changes = (*SMALL, "again.least_margin=0")

    output = distil(*judged, *part, changes=changes)
    assert "release activate vases --specialist" in output
    assert "is a specialist" in distil(*judged, *part, "--activate", changes=changes)

    vases = Release.objects.get(name="vases")
    assert (vases.status, [row.slug for row in vases.coverage.all()]) == (
        "specialist",
        ["a-red-clay-vase"],
    )
    judged_by = Quality.objects.filter(normalized_text="a red clay vase")
    names = judged_by.values_list("release__name", flat=True)
    assert set(names) == {"main", "vases", "toy"}


@pytest.mark.parametrize(
    ("student", "named"),
    [
        ("toy", "teacher"),
        ("nobody", "nobody"),
    ],
)
def test_only_the_training_of_students_can_continue(teacher, detector, student, named):
    with pytest.raises(CommandError, match=named):
        distil("--detector", str(detector), "--student", student, changes=SMALL)


@pytest.mark.slow
def test_a_training_that_cannot_continue_is_refused_with_the_field(teacher, detector, stages):
    stages.take()
    judged = ("--detector", str(detector))
    distil(*judged, "--name", "toy-student", "--activate")

    for change, named in (("timesteps=[999]", "timesteps"), ("again=null", "again")):
        with pytest.raises(CommandError, match=named):
            distil(*judged, "--student", "toy-student", changes=(*SMALL, change))


def test_stages_can_be_built_alone(teacher, settings, detector):
    assert distil("--detector", str(detector), "--only", "pairs") == ""

    made = {
        path.parent.name.partition("-")[0]
        for path in (settings.DATA_DIR / "distillation").rglob("done.json")
    }
    assert made == {"pairs"}
    assert not Release.objects.filter(kind="student").exists()


@pytest.mark.parametrize(
    ("arguments", "changes", "named"),
    [
        (("--teacher", "nobody"), SMALL, "nobody"),
        ((), SMALL, "--clip"),
        ((), ("student.cut=minute",), "student.cut"),
        ((), ("structure.steeps=1",), r"structure\.steeps"),
        ((), (), "image_size"),
        ((), ("image_size=64", "student.width=3/7"), "width"),
        ((), (*SMALL, "labels.weight=0"), "labels.weight"),
        ((), (*SMALL, "structure.objective.method=ensemble"), "one teacher is no ensemble"),
        (("--detector", "nowhere"), SMALL, "nowhere"),
        (("--only", "polish"), SMALL, "polish"),
    ],
)
def test_invalid_options_are_refused_before_anything_is_made(
    teacher, settings, detector, arguments, changes, named
):
    if "--clip" not in named and "--detector" not in arguments:
        arguments = (*arguments, "--detector", str(detector))
    with pytest.raises(CommandError, match=named):
        distil(*arguments, changes=changes)
    assert not list((settings.DATA_DIR).rglob("done.json"))


def test_variants_without_embeddings_are_named(teacher):
    make_variant(text="a green metal cone", slug="green-cone")

    with pytest.raises(CommandError, match=r"green-cone.*catalogue encode"):
        distil()


def test_recipes_can_be_read_from_a_file(teacher, tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"recipe": "starter-1step", "pairs": {"sedes": 3}}), "utf-8")

    with pytest.raises(CommandError, match=r"pairs\.sedes"):
        call_command("distill", "--recipe", str(path), stdout=StringIO(), stderr=StringIO())


def test_a_missing_module_is_named_with_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "distillation.pipeline.acceptance", None)
    with pytest.raises(SystemExit, match=r"acceptance.*requirements\.txt"):
        runpy.run_path(f"{settings.BASE_DIR}/distillation/management/commands/distill.py")


@pytest.mark.slow
def test_a_missing_library_is_named_with_what_to_install():
    code = (
        "import sys; sys.modules['matplotlib'] = None; from django.core import management as m; "
        "m.execute_from_command_line(['manage.py', 'distill', '--list'])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False,
        env=os.environ | {"DJANGO_SETTINGS_MODULE": "project.settings"}, cwd=settings.BASE_DIR,
    )  # fmt: skip
    assert ended.returncode == 1
    assert "matplotlib" in ended.stderr and "requirements.txt" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_recipes_are_listed(db):
    out = StringIO()
    call_command("distill", "--list", stdout=out)
    assert "sd15-tiny-1step" in out.getvalue()
