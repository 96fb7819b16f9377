"""A student's bundle in use: registered, served without a text encoder, rolled back, exported."""

from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from generation.infra import heartbeat
from generation.jobs import submission
from generation.jobs.job_request import JobRequest
from generation.models import Embedding, Image, Job, Release
from tests.factories import make_user, make_variant
from tests.generation.students import make_bundle
from tests.tiny import make_tiny_release

pytestmark = pytest.mark.django_db(transaction=True)

PROMPTS = {"red-vase": "a red glass vase", "blue-bowl": "a blue clay bowl"}


def run(*arguments: str) -> str:
    output = StringIO()
    call_command(*arguments, stdout=output, stderr=StringIO())
    return output.getvalue()


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    make_tiny_release(tmp_path / "teacher", name="teacher-1")
    return tmp_path / "teacher"


@pytest.fixture
def catalogue() -> None:
    for slug, text in PROMPTS.items():
        make_variant(slug=slug, text=text)


@pytest.fixture
def served(tmp_path: Path, teacher: Path, catalogue: None, settings, monkeypatch, redis_server):
    """A student that is active alone: no teacher, and so no text encoder, is registered."""
    settings.DEVICE, settings.TORCH_THREADS, settings.BATCH_SIZE = "cpu", 1, 4
    make_bundle(tmp_path / "student", teacher, PROMPTS, name="student-1")
    run("release", "register", str(tmp_path / "student"))
    run("release", "activate", "student-1")
    heartbeat.stopping.clear()
    yield Release.objects.get(name="student-1")


def test_a_student_without_a_teacher_makes_pictures(served: Release, settings, worker) -> None:
    owner = make_user()
    for seed in (1, 2):
        for slug in PROMPTS:
            submission.submit(owner, JobRequest(variant=slug, seed=seed))

    worker.run()

    assert set(Job.objects.values_list("status", "release__name")) == {("succeeded", "student-1")}
    files = {image.file for image in Image.objects.all()}
    assert len(files) == 4
    assert all((settings.MEDIA_ROOT / file).stat().st_size > 0 for file in files)


def test_a_student_goes_through_the_lifecycle_of_a_release(
    served: Release, teacher: Path, tmp_path: Path
) -> None:
    line = next(line for line in run("release", "list").splitlines() if "student-1" in line)
    for fact in ("student", "active", "2 steps", "64×64"):
        assert fact in line
    assert "match the manifest" in run("release", "verify", "student-1")
    make_bundle(tmp_path / "second", teacher, PROMPTS, name="student-2")
    run("release", "register", str(tmp_path / "second"))
    assert "which replaces student-1" in run("release", "activate", "student-2")
    assert "student-1 again" in run("release", "rollback", "student")
    assert "will not be served" in run("release", "reject", "student-2")
    assert Embedding.objects.count() == 2  # both bring the same embeddings


def test_the_command_generate_uses_the_student_only_for_variants_that_it_covers(
    served: Release, tmp_path: Path
) -> None:
    out = str(tmp_path / "out")
    printed = run("generate", "--variant", "red-vase", "--seed", "3", "--out", out)
    assert "by student-1" in printed
    make_variant(slug="new", text="a white cone")
    with pytest.raises(CommandError, match="covers 2 prompt variants, but not new"):
        run("generate", "--variant", "new", "--out", out)


def test_the_catalogue_counts_variants_with_bundled_embeddings_as_encoded(served: Release) -> None:
    printed = run("catalogue", "status")
    assert "(not on this machine): 0 missing" in printed
    assert "encoded: 2" in printed


def test_stock_diffusers_loads_an_export_with_the_printed_code(
    served: Release, teacher: Path, tmp_path: Path
) -> None:
    target = tmp_path / "plain"
    with pytest.raises(CommandError, match=r"Register its teacher \(teacher-1\)"):
        run("release", "export", "student-1", str(target))
    assert not target.exists()
    run("release", "register", str(teacher))

    printed = run("release", "export", "student-1", str(target))

    code = "\n".join(line.strip() for line in printed.split("\n\n", 1)[1].splitlines())
    seen: dict = {}
    exec(code.replace("\npipe(", "\nimage = pipe("), seen)
    assert seen["image"].size == (64, 64)


def test_an_export_never_overwrites_and_needs_a_known_name(served: Release, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="already exists"):
        run("release", "export", "student-1", str(tmp_path))
    with pytest.raises(CommandError, match="no release 'nothing'"):
        run("release", "export", "nothing", str(tmp_path / "new"))
