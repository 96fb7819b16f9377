"""The Makefile lists its targets, and continuous integration runs `make check`."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXPECTED = [
    "setup",
    "lock",
    "run",
    "demo",
    "test",
    "test-all",
    "check",
    "format",
    "lint",
    "types",
    "imports",
]
EXPECTED += ["acceptance", "bench", "chaos", "clean"]


def make(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


def test_make_without_a_target_lists_every_target() -> None:
    listed = re.findall(r"^  make (\S+) +\S", make().stdout, re.MULTILINE)
    assert set(EXPECTED) <= set(listed)
    explained = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert listed == explained


@pytest.mark.parametrize("target", EXPECTED)
def test_every_target_passes_a_dry_run(target: str) -> None:
    assert make("--dry-run", target).returncode == 0


def test_a_python_that_is_too_old_is_refused(tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.2 && exit 0\nexit 1\n')
    old.chmod(0o755)
    done = make("setup", f"BASE_PYTHON={old}")
    assert done.returncode != 0
    assert "Python 3.11 or newer is needed" in done.stderr
    assert "Python 3.9.2" in done.stderr


def test_continuous_integration_runs_make_check() -> None:
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert "make check" in (ROOT / ".ci" / "run").read_text()
