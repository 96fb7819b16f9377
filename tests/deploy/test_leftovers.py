"""Nothing outlives a launcher: a start that fails, a signal at any moment, a command that leaves processes behind."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from deploy.local import ports
from deploy.local.home import Home, write_json
from deploy.local.postgresql import wait_until
from deploy.local.stack import is_serving
from deploy.local.supervision import is_running
from deploy.local.throwaway import PREFIX
from tests.acceptance.stack import Stack, StartFailed
from tests.deploy.test_stack import OURS

ROOT = Path(__file__).resolve().parents[2]
ORPHAN = "import subprocess, sys; subprocess.Popen(['sleep', '600'], start_new_session=True)"


def users_of(folder: Path) -> list[psutil.Process]:
    """Return the processes that have this folder in their command, environment or working directory."""
    own_processes = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found = []
    for process in psutil.process_iter():
        try:
            facts = [*process.cmdline(), *process.environ().values(), process.cwd()]
        except (psutil.Error, OSError):
            continue
        is_user = any(str(folder) in fact for fact in facts)
        if is_user and process.pid not in own_processes and is_running(process):
            found.append(process)
    return found


@contextmanager
def started(
    folder: Path, *arguments: str, output: int | None = None, **variables: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run the launcher; its output goes to this descriptor, else to the file `output` in the folder."""
    kept = {name: value for name, value in os.environ.items() if name not in OURS}
    places = {"TMPDIR": str(folder), "RETORT_HOME": str(folder / "home"), "PORT": str(ports.pick())}
    with (folder / "output").open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "deploy.local", *arguments],
            cwd=ROOT,
            env={**kept, **places, **variables},
            stdout=file if output is None else output,
            stderr=file if output is None else output,
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path: Path) -> Iterator[None]:
    yield
    left = users_of(tmp_path)
    commands = [process.cmdline() for process in left]
    for process in left:
        process.kill()
    assert commands == []


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
        pytest.param("/logs/redis.log", marks=pytest.mark.slow),
    ],
)
def test_servers_interrupted_during_their_start_leave_nothing(tmp_path: Path, appears: str) -> None:
    with started(tmp_path, "servers", "--", "sleep", "600") as process:
        pattern = f"{PREFIX}*{appears}"
        assert wait_until(lambda: bool(list(tmp_path.glob(pattern))), 120, step=0.001)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=120) == 130, output_of(tmp_path)
    assert list(tmp_path.glob(f"{PREFIX}*")) == []


def test_processes_left_by_a_command_are_ended_with_its_servers(tmp_path: Path) -> None:
    with started(tmp_path, "servers", "--", sys.executable, "-c", ORPHAN) as process:
        assert process.wait(timeout=120) == 0, output_of(tmp_path)


@pytest.mark.slow
def test_processes_left_by_a_killed_run_are_ended_by_the_next_run(tmp_path: Path) -> None:
    with started(tmp_path, "servers", "--", "sh", "-c", "echo ready; sleep 600") as process:
        assert wait_until(lambda: "ready" in output_of(tmp_path), 120)
        process.kill()
    (folder,) = tmp_path.glob(f"{PREFIX}*")
    os.utime(folder, (0, 0))  # a fresh one could be a run that is just starting
    with started(tmp_path, "servers", "--", "true") as process:
        assert process.wait(timeout=120) == 0, output_of(tmp_path)
    assert not folder.exists()


def test_the_facts_of_a_stack_that_is_gone_are_ignored(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.create()
    # After a power cut its launcher's number belongs to another process.
    write_json(home.run_file, {"launcher_pid": os.getpid(), "base_url": "http://127.0.0.1:1"})
    assert not is_serving(home)
    write_json(home.run_file, {})
    assert not is_serving(home)


# --- whole stacks ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "printed",
    [
        pytest.param("Creating a PostgreSQL data folder", marks=pytest.mark.slow),
        "Starting PostgreSQL and Redis",
        pytest.param("Migrating the database", marks=pytest.mark.slow),
        pytest.param("Starting the web process", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(
    "signals",
    [
        pytest.param([signal.SIGTERM], marks=pytest.mark.slow),
        [signal.SIGINT, signal.SIGINT],
    ],
)
def test_a_stack_interrupted_during_its_start_leaves_nothing(
    tmp_path: Path, printed: str, signals: list[signal.Signals]
) -> None:
    with started(tmp_path, "run", "--no-picture") as process:
        assert wait_until(lambda: printed in output_of(tmp_path), 600, step=0.01), output_of(
            tmp_path
        )
        for number in signals:
            process.send_signal(number)
        assert process.wait(timeout=120) == 130, output_of(tmp_path)


@pytest.mark.slow
def test_facts_that_cannot_be_removed_do_not_keep_processes_running(tmp_path: Path) -> None:
    with started(tmp_path, "run", "--no-picture") as process:
        printed = "Starting PostgreSQL and Redis"
        assert wait_until(lambda: printed in output_of(tmp_path), 600, step=0.01)
        (tmp_path / "home" / "run.json" / "in the way").mkdir(parents=True)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=120) == 130, output_of(tmp_path)


@pytest.mark.slow
def test_a_stack_whose_output_is_closed_is_stopped_by_a_signal(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    with started(tmp_path, "run", "--no-picture", output=writer) as process:
        os.close(writer)
        with open(reader, encoding="utf-8") as lines:
            assert any("Ctrl-C stops everything" in line for line in lines)
        process.send_signal(signal.SIGINT)
        process.wait(timeout=120)


@pytest.mark.slow
def test_a_stack_that_cannot_prepare_its_database_leaves_nothing(tmp_path: Path) -> None:
    with started(tmp_path, "run", "--no-picture", LEASE_SECONDS="none") as process:
        assert process.wait(timeout=600) == 1
    assert "The database could not be prepared" in output_of(tmp_path)


@pytest.mark.parametrize(
    "seconds",
    [1, pytest.param(6, marks=pytest.mark.slow), pytest.param(20, marks=pytest.mark.slow)],
)
def test_an_acceptance_stack_that_is_not_ready_in_time_leaves_nothing(
    tmp_path: Path, seconds: float
) -> None:
    with pytest.raises(StartFailed):
        Stack(tmp_path / "home", workers=1, env={}, ready_seconds=seconds)
