"""`manage.py release`: output and errors of each action."""

import os
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from generation.models import Release
from tests import tiny
from tests.web import database_url

pytestmark = pytest.mark.django_db


def run(*arguments: str) -> str:
    output = StringIO()
    call_command("release", *arguments, stdout=output, stderr=StringIO())
    return output.getvalue()


def statuses() -> dict[str, str]:
    return dict(Release.objects.values_list("name", "status"))


@pytest.fixture
def two_releases(tmp_path: Path) -> None:
    for name in ("first", "second"):
        tiny.make_tiny_release(tmp_path / name, name=name)
        run("register", str(tmp_path / name))


def test_a_release_goes_through_its_whole_lifecycle(two_releases: None) -> None:
    assert "is first." in run("activate", "first")
    assert "is second, which replaces first." in run("activate", "second")
    assert "is first again" in run("rollback", "teacher")
    assert "will not be served" in run("reject", "second")
    assert statuses() == {"first": "active", "second": "rejected"}


@pytest.mark.django_db(transaction=True)
def test_a_release_is_registered_without_torch(tmp_path: Path, settings) -> None:
    tiny.make_tiny_release(tmp_path / "made", name="made", kind="student")
    code = f"""
import sys, django
django.setup()
from django.core.management import call_command
call_command("release", "register", {str(tmp_path / "made")!r})
print(sorted({{"torch", "diffusers", "transformers"}} & set(sys.modules)))
"""
    environment = {**os.environ, "DATABASE_URL": database_url(), "DATA_DIR": str(settings.DATA_DIR)}
    made = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert made.stdout.splitlines()[-1] == "[]"
    assert statuses() == {"made": "candidate"}


def test_a_canary_is_started_shown_and_ended(two_releases: None) -> None:
    run("activate", "first")
    assert "second serves 5 % of the jobs" in run("canary", "second", "--percent", "5")
    assert "canary 5 %" in run("list")
    with pytest.raises(CommandError, match="first is active; a canary is"):
        run("canary", "first")
    assert "canary second has ended" in run("canary", "second", "--percent", "0")
    assert statuses() == {"first": "active", "second": "candidate"}


def test_a_specialist_is_activated_and_retired(tmp_path: Path) -> None:
    for name in ("main", "vases"):
        tiny.make_tiny_release(tmp_path / name, name=name, kind="student")
        run("register", str(tmp_path / name))
    run("activate", "main")
    assert "vases is a specialist" in run("activate", "vases", "--specialist")
    assert statuses() == {"main": "active", "vases": "specialist"}
    assert "vases is retired" in run("retire", "vases")
    with pytest.raises(CommandError, match="main is active, not a specialist"):
        run("retire", "main")
    assert statuses() == {"main": "active", "vases": "retired"}


def test_a_release_has_its_own_number_of_tries(two_releases: None) -> None:
    assert "at most 4 tries" in run("tries", "first", "4")
    assert dict(Release.objects.values_list("name", "max_tries")) == {"first": 4, "second": None}
    with pytest.raises(CommandError, match=r"invalid choice: .?11"):
        run("tries", "first", "11")


def test_a_student_has_its_own_floor_of_quality_and_a_teacher_has_none(tmp_path: Path) -> None:
    for name, kind in (("first", "student"), ("slow", "teacher")):
        tiny.make_tiny_release(tmp_path / name, name=name, kind=kind)
        run("register", str(tmp_path / name))
    assert "floor of quality is 0.75" in run("floor", "first", "0.75")
    rows = Release.objects.values_list("name", "quality_floor")
    assert dict(rows) == {"first": 0.75, "slow": None}
    assert "the setting QUALITY_FLOOR" in run("floor", "first")
    assert Release.objects.get(name="first").quality_floor is None
    with pytest.raises(CommandError, match="give a share from 0 to 1"):
        run("floor", "first", "75")
    with pytest.raises(CommandError, match="slow is a teacher, and serves where"):
        run("floor", "slow", "0.75")


def test_registering_prints_the_next_command(tmp_path: Path) -> None:
    tiny.make_tiny_release(tmp_path / "made", name="tiny")
    output = run("register", str(tmp_path / "made"))
    assert "Registered tiny (teacher, " in output
    assert "manage.py release activate tiny" in output


def test_a_stable_diffusion_folder_is_registered_with_options(tmp_path: Path) -> None:
    source = tiny.make_sd15_folder(tmp_path / "sd15")
    run(
        *("register", str(source), "--name", "toy", "--steps", "6", "--guidance", "3"),
        *("--noise-scheduler", "dpmsolver++", "--image-size", "96x64", "--image-size", "64x64"),
    )
    release = Release.objects.get()
    assert (release.name, release.num_inference_steps) == ("toy", 6)
    assert release.manifest["noise_scheduler"] == "dpmsolver++"
    assert release.image_sizes == [(96, 64), (64, 64)]


def test_the_list_names_every_release_with_its_facts(two_releases: None) -> None:
    run("activate", "first")
    lines = run("list").splitlines()
    assert len(lines) == 2
    line = next(line for line in lines if line.startswith("first"))
    for fact in ("teacher", "active", "4 steps", "64×64", "MB", " UTC"):
        assert fact in line


def test_an_empty_list_prints_advice() -> None:
    assert "release register DIR" in run("list")


def test_verifying_counts_the_files_or_names_the_changed_one(two_releases: None) -> None:
    assert "files match the manifest" in run("verify", "first")
    path = Path(Release.objects.get(name="first").path) / "unet/config.json"
    path.write_text(path.read_text().replace("silu", "gelu"))
    with pytest.raises(CommandError, match=r"unet/config\.json was changed"):
        run("verify", "first")
    with pytest.raises(CommandError, match="changed"):
        run("activate", "first")


@pytest.mark.parametrize("action", ["verify", "activate", "reject"])
def test_an_unknown_name_lists_the_known_ones(two_releases: None, action: str) -> None:
    with pytest.raises(CommandError, match=r"no release 'third'. Registered: .*first"):
        run(action, "third")


@pytest.mark.parametrize("size", ["64", "64x", "63x64", "0x64", "64x64x3"])
def test_an_invalid_size_is_refused(tmp_path: Path, size: str) -> None:
    with pytest.raises(CommandError, match="image-size"):
        run("register", str(tmp_path), "--image-size", size)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--steps", "0", "from 1 to 1000"),
        ("--noise-scheduler", "pndm", "not one of ddim"),
        ("--guidance", "0.5", "guidance_scale"),
    ],
)
def test_wrong_options_are_refused_and_leave_nothing(
    tmp_path: Path, option: str, value: str, message: str
) -> None:
    source = tiny.make_sd15_folder(tmp_path / "sd15")
    with pytest.raises(CommandError, match=message):
        run("register", str(source), option, value)
    assert not Release.objects.exists()


def test_a_rollback_without_an_active_release_is_refused() -> None:
    with pytest.raises(CommandError, match="No student is active"):
        run("rollback", "student")
