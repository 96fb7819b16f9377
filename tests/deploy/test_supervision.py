"""Processes are kept running, stop in time, and are found after a killed launcher. Real supervisor, toy programs."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from deploy.local import supervision
from deploy.local.errors import ProcessFailed
from deploy.local.home import Home
from deploy.local.postgresql import wait_until
from deploy.local.supervision import (
    MARK,
    Program,
    Supervisor,
    Watch,
    end_processes,
    is_running,
    kill_processes,
    marked,
    survivors,
)

OBEDIENT = [sys.executable, "-c", "import time; time.sleep(600)"]
UNRESPONSIVE = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)",
]
STARTED: list[Supervisor] = []


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """A home whose path has characters that are special to shells and in configuration files."""
    home = Home(tmp_path / "a % 'b' ; #c")
    home.create()
    yield home
    kill_processes(home)
    while STARTED:
        STARTED.pop().reap()


def start(home: Home, *programs: Program) -> Supervisor:
    supervisor = Supervisor(home)
    STARTED.append(supervisor)
    supervisor.start(programs, marked(os.environ, home))
    supervisor.run(*(program.name for program in programs))
    return supervisor


def pid_of(supervisor: Supervisor, name: str) -> int:
    return supervisor.states()[name].pid


def is_up(supervisor: Supervisor, name: str) -> bool:
    return supervisor.states()[name].state == "RUNNING"


def test_a_killed_process_is_started_again(home: Home) -> None:
    supervisor = start(home, Program("one", OBEDIENT))
    assert wait_until(lambda: is_up(supervisor, "one"), 60)
    old = pid_of(supervisor, "one")
    psutil.Process(old).kill()
    assert wait_until(lambda: pid_of(supervisor, "one") not in (0, old), 60)


def test_commands_and_environment_reach_the_process_unchanged(home: Home) -> None:
    written = home.folder / "written"
    code = f"import os, sys; open({str(written)!r}, 'w').write(sys.argv[1] + os.environ['NAME'])"
    start(
        home, Program("one", [sys.executable, "-c", code, "50 % \"of\" ; #1 'x'"], {"NAME": "n-1"})
    )
    assert wait_until(lambda: written.exists() and bool(written.read_text()), 60)
    assert written.read_text() == "50 % \"of\" ; #1 'x'n-1"


def test_secrets_are_not_written_into_the_configuration(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_KEY", "very-secret")
    start(home, Program("one", OBEDIENT))
    assert "very-secret" not in home.supervisor_config.read_text()


@pytest.mark.slow
def test_a_process_that_ignores_the_signal_is_killed_in_time(home: Home) -> None:
    supervisor = start(home, Program("stubborn", UNRESPONSIVE), Program("obedient", OBEDIENT))
    assert wait_until(lambda: "ready" in (home.logs / "stubborn.log").read_text(), 60)
    process = psutil.Process(pid_of(supervisor, "stubborn"))
    began = time.monotonic()
    end_processes(home)
    assert time.monotonic() - began < 8
    assert not is_running(process)


def test_a_program_that_does_not_stay_up_is_reported_with_its_log(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervision, "STARTS", 1)
    command = [sys.executable, "-c", "raise SystemExit('no such thing as a free lunch')"]
    supervisor = start(home, Program("broken", command))
    watch = Watch(["broken"])

    def check_and_go_on() -> bool:
        watch.check(supervisor.states())
        return False

    with pytest.raises(ProcessFailed, match=r"broken does not stay up(?s:.*)free lunch"):
        wait_until(check_and_go_on, 20, step=0.05)


def test_orphans_of_a_killed_supervisor_are_ended_and_foreign_processes_are_not(home: Home) -> None:
    supervisor = start(home, Program("one", OBEDIENT), Program("two", OBEDIENT))
    assert wait_until(lambda: is_up(supervisor, "one") and is_up(supervisor, "two"), 60)
    processes = [psutil.Process(pid_of(supervisor, name)) for name in ("one", "two")]
    foreign = psutil.Popen(OBEDIENT, env={**os.environ, MARK: "/somewhere/else"})
    assert supervisor._process
    supervisor._process.kill()
    supervisor._process.wait()
    assert all(map(is_running, processes))
    assert end_processes(home) == 2
    assert not any(map(is_running, processes))
    assert foreign.is_running()
    foreign.kill()
    foreign.wait()


def test_processes_are_listed_stopped_and_started_by_name(home: Home) -> None:
    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "deploy.local", *arguments],
            env={**os.environ, "RETORT_HOME": str(home.folder)},
            capture_output=True,
            text=True,
        )

    done = call("status")
    assert (done.returncode, "Nothing is serving" in done.stderr) == (1, True)
    supervisor = start(home, Program("one", OBEDIENT))
    assert wait_until(lambda: is_up(supervisor, "one"), 60)
    assert call("stop", "one").stdout == "one: stopped\n"
    assert "STOPPED" in call("status").stdout
    assert call("restart", "one").returncode == 0
    assert is_up(supervisor, "one")
    done = call("start", "two")
    assert (done.returncode, "no such process" in done.stdout) == (1, True)


def test_processes_of_a_home_inside_another_home_belong_to_both(home: Home, tmp_path: Path) -> None:
    inner = Home(tmp_path / "inner")
    environment = marked(marked(os.environ, home), inner)
    with psutil.Popen(OBEDIENT, env=environment) as process:
        assert wait_until(lambda: [process.pid] == [p.pid for p in survivors(inner)], 60)
        kill_processes(home)
        assert process.wait(timeout=60) < 0
    assert survivors(inner) == []
