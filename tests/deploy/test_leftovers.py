"""Nothing outlives a launcher: a start that fails, a signal at any moment, a command that leaves processes behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from deploy.local.postgresql import wait_until
from deploy.local.supervision import is_running
from deploy.local.throwaway import PREFIX
from tests.acceptance.stack import Stack, StartFailed
from tests.deploy.test_stack import OURS

ROOT = Path(__file__).resolve().parents[2]
ORPHAN = "import subprocess, sys; subprocess.Popen(['sleep', '600'], start_new_session=True)"


def users_of(folder: Path) -> list[str]:
    """Commands of the processes that have this folder in their command, environment or working directory."""
    found = []
    for process in psutil.process_iter():
        try:
            facts = [*process.cmdline(), *process.environ().values(), process.cwd()]
        except (psutil.Error, OSError):
            continue
        mine = process.pid == os.getpid() or process.pid in {
            p.pid for p in psutil.Process().parents()
        }
        if not mine and is_running(process) and any(str(folder) in fact for fact in facts):
            found.append(" ".join(process.cmdline()))
    return found


def start(folder: Path, *arguments: str, **variables: str) -> subprocess.Popen[bytes]:
    kept = {name: value for name, value in os.environ.items() if name not in OURS}
    folder.mkdir(exist_ok=True)
    with (folder / "output").open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "deploy.local", *arguments],
            cwd=ROOT,
            env={**kept, "TMPDIR": str(folder), "RETORT_HOME": str(folder / "home"), **variables},
            stdout=output,
            stderr=output,
        )


def output_of(folder: Path) -> str:
    return (folder / "output").read_text()


# --- servers for one command ----------------------------------------------------------------------
@pytest.mark.parametrize(
    "appears",
    [
        "",
        pytest.param("/secrets.json", marks=pytest.mark.slow),
        pytest.param("/.postgres-unfinished-*", marks=pytest.mark.slow),
        pytest.param("/postgres", marks=pytest.mark.slow),
        "/logs/redis.log",
    ],
)
def test_servers_that_are_interrupted_while_they_start(tmp_path: Path, appears: str) -> None:
    with start(tmp_path, "servers", "--", "sleep", "600") as process:
        pattern = f"{PREFIX}*{appears}"
        assert wait_until(lambda: bool(list(tmp_path.glob(pattern))), 60, step=0.001)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130, output_of(tmp_path)
    assert users_of(tmp_path) == []
    assert list(tmp_path.glob(f"{PREFIX}*")) == []


def test_what_a_command_leaves_is_ended_with_its_servers(tmp_path: Path) -> None:
    with start(tmp_path, "servers", "--", sys.executable, "-c", ORPHAN) as process:
        assert process.wait(timeout=60) == 0, output_of(tmp_path)
    assert users_of(tmp_path) == []


def test_what_a_killed_run_left_is_ended_by_the_next(tmp_path: Path) -> None:
    with start(tmp_path, "servers", "--", "sleep", "600") as process:
        assert wait_until(lambda: any(user == "sleep 600" for user in users_of(tmp_path)), 60)
        process.kill()
    (folder,) = tmp_path.glob(f"{PREFIX}*")
    os.utime(folder, (0, 0))  # a fresh one could be a run that is just starting
    with start(tmp_path, "servers", "--", "true") as process:
        assert process.wait(timeout=60) == 0, output_of(tmp_path)
    assert users_of(tmp_path) == []
    assert not folder.exists()


# --- whole stacks ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "printed",
    [
        pytest.param("Making a PostgreSQL data folder", marks=pytest.mark.slow),
        "Starting PostgreSQL and Redis",
        pytest.param("migrat", marks=pytest.mark.slow),
        pytest.param("Starting the web process", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGINT, signal.SIGINT]])
def test_a_stack_that_is_interrupted_while_it_starts(
    tmp_path: Path, printed: str, signals: list[signal.Signals]
) -> None:
    with start(tmp_path, "run", "--no-picture") as process:
        assert wait_until(lambda: printed in output_of(tmp_path), 300, step=0.01), output_of(
            tmp_path
        )
        for number in signals:
            process.send_signal(number)
        assert process.wait(timeout=60) == 130, output_of(tmp_path)
    assert users_of(tmp_path) == []


def test_a_stack_that_cannot_prepare_its_database(tmp_path: Path) -> None:
    with start(tmp_path, "run", "--no-picture", LEASE_SECONDS="none") as process:
        assert process.wait(timeout=300) == 1
    assert "The database could not be prepared" in output_of(tmp_path)
    assert users_of(tmp_path) == []


@pytest.mark.parametrize(
    "seconds",
    [pytest.param(1, marks=pytest.mark.slow), 6, pytest.param(20, marks=pytest.mark.slow)],
)
def test_an_acceptance_stack_that_is_not_ready_in_time(tmp_path: Path, seconds: float) -> None:
    with pytest.raises(StartFailed):
        Stack(tmp_path / "home", workers=1, env={}, ready_seconds=seconds)
    assert users_of(tmp_path) == []
