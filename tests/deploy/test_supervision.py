"""Processes stay up, stop in time, and are found again after a killed launcher. Real supervisor, toy programs."""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from deploy.local.errors import ProcessFailed
from deploy.local.home import Home
from deploy.local.postgresql import wait_until
from deploy.local.stack import Watch
from deploy.local.supervision import Program, Supervisor, clear_leftovers, survivors

LISTENS = [sys.executable, "-c", "import time; time.sleep(600)"]
DEAF = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)",
]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """Its path has what shells and configuration files find special."""
    home = Home(tmp_path / "a % 'b' ; #c")
    home.create()
    yield home
    for process in survivors(home):
        process.kill()


def start(home: Home, *programs: Program) -> Supervisor:
    supervisor = Supervisor(home)
    supervisor.start(programs, os.environ)
    supervisor.run(*(program.name for program in programs))
    return supervisor


def pid_of(supervisor: Supervisor, name: str) -> int:
    return supervisor.states()[name].pid


def is_running(supervisor: Supervisor, name: str) -> bool:
    return supervisor.states()[name].state == "RUNNING"


def test_a_killed_process_is_started_again_within_two_seconds(home: Home) -> None:
    supervisor = start(home, Program("one", LISTENS))
    assert wait_until(lambda: is_running(supervisor, "one"), 5)
    old = pid_of(supervisor, "one")
    psutil.Process(old).kill()
    assert wait_until(lambda: pid_of(supervisor, "one") not in (0, old), 2)
    supervisor.shut_down()


def test_commands_and_environment_arrive_as_they_are(home: Home) -> None:
    written = home.folder / "written"
    code = f"import os, sys; open({str(written)!r}, 'w').write(sys.argv[1] + os.environ['NAME'])"
    supervisor = start(
        home, Program("one", [sys.executable, "-c", code, "50 % \"of\" ; #1 'x'"], {"NAME": "n-1"})
    )
    assert wait_until(lambda: written.exists() and bool(written.read_text()), 5)
    assert written.read_text() == "50 % \"of\" ; #1 'x'n-1"
    supervisor.shut_down()


def test_secrets_are_not_written_into_the_configuration(home: Home) -> None:
    supervisor = Supervisor(home)
    supervisor.start([Program("one", LISTENS)], {**os.environ, "SECRET_KEY": "very-secret"})
    assert "very-secret" not in home.supervisor_config.read_text()
    supervisor.shut_down()


def test_a_process_that_ignores_the_signal_is_killed_in_time(home: Home) -> None:
    supervisor = start(home, Program("deaf", DEAF, stop_seconds=1), Program("listens", LISTENS))
    assert wait_until(lambda: "deaf" in (home.logs / "deaf.log").read_text(), 5)
    pid = pid_of(supervisor, "deaf")
    began = time.monotonic()
    supervisor.stop("deaf", "listens", seconds=6)
    supervisor.shut_down()
    assert time.monotonic() - began < 5
    assert not psutil.pid_exists(pid)


def test_a_program_that_does_not_stay_up_is_reported_with_its_log(home: Home) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no such thing as a free lunch')"]
    supervisor = start(home, Program("broken", command))
    watch = Watch(["broken"], tries=1)

    def looks() -> bool:
        watch.check(supervisor.states())
        return False

    with pytest.raises(ProcessFailed, match=r"broken does not stay up(?s:.*)free lunch"):
        wait_until(looks, 20, step=0.05)
    supervisor.shut_down()


def test_what_a_killed_launcher_left_is_ended(home: Home) -> None:
    supervisor = start(home, Program("one", LISTENS))
    assert wait_until(lambda: is_running(supervisor, "one"), 5)
    pid = pid_of(supervisor, "one")
    assert clear_leftovers(home) == 2
    assert supervisor._process
    supervisor._process.wait(timeout=1)  # as init would
    assert not psutil.pid_exists(pid)
    assert survivors(home) == []


def test_orphans_of_a_killed_supervisor_are_ended_and_strangers_are_not(home: Home) -> None:
    supervisor = start(home, Program("one", LISTENS), Program("two", LISTENS))
    assert wait_until(lambda: is_running(supervisor, "one") and is_running(supervisor, "two"), 5)
    pids = [pid_of(supervisor, "one"), pid_of(supervisor, "two")]
    stranger = psutil.Popen(LISTENS, env={**os.environ, "RETORT_SUPERVISED_BY": "/somewhere/else"})
    assert supervisor._process
    supervisor._process.kill()
    supervisor._process.wait()
    assert all(psutil.pid_exists(pid) for pid in pids)
    assert clear_leftovers(home) == 2
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert stranger.is_running()
    stranger.kill()
    stranger.wait()
