"""`deploy.local manage` on the servers of `make run`: a backup of one home is restored into another one."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.local.home import Home
from tests.deploy.test_stack import OURS
from tests.web import ROOT

AT_AN_INTERRUPTION = """
import time
try:
    print("begun", flush=True)
    time.sleep(600)
except KeyboardInterrupt:
    time.sleep(2)
    print("undone", flush=True)
"""
LAUNCHER = """
import sys
from deploy.local import home, management
facts = dict.fromkeys(management.OF_FACTS.values(), "x" * 40)
facts["database_url"] = facts["redis_url"] = "postgres://nobody@127.0.0.1:1/none"
facts["data_dir"] = sys.argv[1]
sys.exit(management.run(home.Home(sys.argv[1]), ["shell", "-v", "0", "-c", sys.argv[2]], facts=facts))
"""


def manage(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    others = {name: value for name, value in os.environ.items() if name not in (*OURS, "REDIS_URL")}
    return subprocess.run(
        [sys.executable, "-m", "deploy.local", "manage", *words],
        cwd=ROOT, env={**others, "RETORT_HOME": str(home)}, capture_output=True, text=True,
    )  # fmt: skip


def test_an_interrupted_command_has_time_to_undo_its_work(tmp_path: Path):
    with subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, str(tmp_path), AT_AN_INTERRUPTION],
        cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stdout and process.stdout.readline() == "begun\n"
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        assert process.stdout.read() == "undone\n"
    assert process.returncode == 0


@pytest.mark.slow  # starts PostgreSQL six times; tests/project/maintenance has the rest
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
