"""`deploy.local manage` on the servers of `make run`: a backup of one home is restored into another one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.local.home import Home
from tests.deploy.test_stack import OURS
from tests.web import ROOT

pytestmark = pytest.mark.slow  # starts PostgreSQL six times; tests/project/maintenance has the rest


def manage(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    others = {name: value for name, value in os.environ.items() if name not in (*OURS, "REDIS_URL")}
    return subprocess.run(
        [sys.executable, "-m", "deploy.local", "manage", *words],
        cwd=ROOT, env={**others, "RETORT_HOME": str(home)}, capture_output=True, text=True,
    )  # fmt: skip


def test_a_backup_is_restored_into_another_home(tmp_path: Path):
    first, second = tmp_path / "first", tmp_path / "second"
    made = manage(first, "bootstrap")
    assert made.returncode == 0, made.stderr
    kept = first / "data" / "releases" / "a-file"
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text("kept")
    archive = tmp_path / "retort.tar"
    done = manage(first, "backup", str(archive))
    assert done.returncode == 0, done.stderr
    restored = manage(second, "restore", str(archive))
    assert restored.returncode == 0, restored.stderr
    assert (second / "data" / "releases" / "a-file").read_text() == "kept"
    assert manage(second, "migrate", "--check").returncode == 0
    listed = manage(second, "release", "list")
    assert "starter" in listed.stdout, listed.stderr
    examined = manage(second, "doctor")
    # The only fault is that no process of Retort runs.
    assert examined.returncode == 1 and "no generation worker" in examined.stdout
    assert "FAULT releases" not in examined.stdout and "ok    postgresql" in examined.stdout
    for home in (first, second):
        assert not Home(home).run_file.exists()
        assert not (home / "postgres" / "postmaster.pid").exists()
