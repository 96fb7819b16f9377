"""The README's commands, executed beside a running stack. tests/test_readme.py has the rest."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.acceptance.stack import ROOT, Stack
from tests.test_readme import EXECUTED, blocks
from tests.tiny import make_sd15_folder

pytestmark = pytest.mark.acceptance

FIRST, BESIDE, OWN = EXECUTED
PLACEHOLDER = "/path/to/stable-diffusion"  # in the README, for a folder that only the reader has


@pytest.fixture
def clone(stack: Stack, tmp_path: Path) -> Path:
    """A folder that looks like a clone in which `make run` serves."""
    (tmp_path / "manage.py").symlink_to(ROOT / "manage.py")
    (tmp_path / ".retort").symlink_to(stack.home)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    return tmp_path


def run(clone: Path, *headings: str, replace: dict[str, str] | None = None) -> str:
    """Execute the blocks under these headings in one shell. Returns what they printed."""
    script = "\n".join(block for heading in headings for block in blocks(heading))
    for old, new in (replace or {}).items():
        assert old in script
        script = script.replace(old, new)
    names = ("DATABASE_URL", "REDIS_URL", "SECRET_KEY", "DATA_DIR", "DJANGO_SETTINGS_MODULE")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=clone,
        env={name: value for name, value in os.environ.items() if name not in names},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def test_the_first_request_ends_with_a_picture(clone: Path, variants: list[str]):
    if shutil.which("curl") is None:
        pytest.fail(
            "The README's first request needs curl, and this machine has none: install curl."
        )
    run(clone, FIRST)
    with Image.open(clone / "picture.webp") as picture:
        assert (picture.format, picture.size) == ("WEBP", (256, 256))


@pytest.mark.slow
def test_the_engine_alone_makes_pictures_and_reports_its_times(clone: Path, variants: list[str]):
    printed = run(clone, BESIDE)
    files = sorted((clone / "out").iterdir())
    assert [file.name for file in files] == [
        f"red-glass-vase-table-{seed}.webp" for seed in (10, 7, 8, 9)
    ]
    assert "per image" in printed and "peak memory" in printed


@pytest.mark.slow
def test_a_stable_diffusion_folder_is_registered_served_and_retired(
    clone: Path, stack: Stack, tmp_path_factory: pytest.TempPathFactory
):
    before = {release["name"]: release["status"] for release in releases(stack)}
    folder = make_sd15_folder(tmp_path_factory.mktemp("models") / "stable-diffusion")

    printed = run(clone, BESIDE, OWN, replace={PLACEHOLDER: str(folder)})

    assert "Registered my-teacher" in printed
    assert "The active teacher is my-teacher" in printed
    after = {release["name"]: release["status"] for release in releases(stack)}
    assert after == {**before, "my-teacher": "retired"}


def releases(stack: Stack) -> list[dict]:
    return stack.http.get("/v1/releases", params={"limit": 100}).json()["results"]
