"""A whole stack as a user sees it: it states its address, makes pictures, restarts its processes, and stops in time."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from deploy.local import ports
from deploy.local.home import Home
from deploy.local.postgresql import wait_until
from deploy.local.supervision import is_running, kill_processes, survivors

pytestmark = pytest.mark.slow  # in `make test` the acceptance tests start, kill and stop a stack

ROOT = Path(__file__).resolve().parents[2]
OURS = (
    "DATABASE_URL",
    "REDIS_URL",
    "DATA_DIR",
    "SECRET_KEY",
    "LOCAL_API_KEY",
    "PORT",
    "OUT",
    "PROMPT",
    "SEED",
)


class Run:
    """`python -m deploy.local run` in one folder, repeatedly."""

    def __init__(self, folder: Path) -> None:
        self.home = Home(folder)
        self.environment = {
            **{name: value for name, value in os.environ.items() if name not in OURS},
            "RETORT_HOME": str(folder),
            "PORT": str(ports.pick()),  # a stack of another test may start at the same moment
        }
        self.start()

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "deploy.local", *arguments]

    def start(self) -> None:
        self.output = self.home.folder.parent / "output"
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                self.command("run", "--no-picture"),
                cwd=ROOT,
                env=self.environment,
                stdout=output,
                stderr=output,
            )

        def settled() -> bool:
            """Return whether the facts are those of this launcher: a killed one leaves its own until the next start."""
            ours = self.facts().get("launcher_pid") == self.process.pid
            return ours or self.process.poll() is not None

        assert wait_until(settled, 600, step=0.1)
        assert self.process.poll() is None, self.output.read_text()

    def facts(self) -> dict[str, Any]:
        return self.home.read_run()

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments), cwd=ROOT, env=self.environment, capture_output=True, text=True
        )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    run = Run(tmp_path_factory.mktemp("with space") / "home")
    yield run
    run.process.kill()
    run.process.wait()
    kill_processes(run.home)


def test_a_stack_states_its_address_for_its_owner_only(run: Run) -> None:
    facts = run.facts()
    assert stat.S_IMODE(run.home.run_file.stat().st_mode) == 0o600
    assert facts["admin_url"] == facts["base_url"] + "/admin/"
    assert facts["api_key"].startswith("rt_")
    names = {
        "postgres", "redis", "web", "generation-1", "encode", "distillation", "webhooks", "light", "beat"
    }  # fmt: skip
    assert set(facts["processes"]) == names
    assert all(psutil.pid_exists(pid) for pid in facts["processes"].values())


def test_a_demo_uses_the_running_stack_and_prints_the_path_last(run: Run) -> None:
    done = run.call("demo", "--seed", "7")
    assert done.returncode == 0, done.stderr
    path = Path(done.stdout.splitlines()[-1])
    assert path.suffix == ".webp"
    assert path.read_bytes()[8:12] == b"WEBP"


def test_out_sets_the_file_and_its_format(run: Run, tmp_path: Path) -> None:
    done = run.call("demo", "--seed", "7", "--out", str(tmp_path / "a" / "picture.png"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a" / "picture.png").read_bytes()[1:4] == b"PNG"


def test_an_unwritable_out_is_reported_in_one_sentence(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    done = run.call("demo", "--seed", "7", "--out", str(tmp_path / "file" / "picture.png"))
    assert done.returncode == 1 and "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.endswith("picture.png cannot be written: File exists. Choose another path.")


def test_an_unknown_prompt_fails_with_texts_of_the_catalogue(run: Run) -> None:
    done = run.call("demo", "--prompt", "a purple giraffe on a wooden table")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "giraffe" in done.stderr
    suggested = [line for line in done.stderr.splitlines() if line.startswith("  a ")]
    assert suggested
    assert all("wooden table" in line or "purple" in line for line in suggested)


def test_a_second_launcher_is_refused(run: Run) -> None:
    done = run.call("run")
    assert done.returncode == 1
    assert str(run.home.folder) in done.stderr


@pytest.mark.parametrize("name", ["light", "redis", "postgres"])
def test_a_killed_process_is_restarted_and_the_facts_are_updated(run: Run, name: str) -> None:
    old = run.facts()["processes"][name]
    psutil.Process(old).kill()
    assert wait_until(lambda: run.facts()["processes"].get(name) not in (None, old), 300)
    assert psutil.pid_exists(run.facts()["processes"][name])


def test_facts_that_cannot_be_written_do_not_end_the_stack(run: Run) -> None:
    facts = run.facts()
    run.home.run_file.unlink()
    (run.home.run_file / "in the way").mkdir(parents=True)
    psutil.Process(facts["processes"]["beat"]).kill()
    try:
        assert wait_until(lambda: "was not written" in run.output.read_text(), 60, step=0.1)
        assert run.process.poll() is None
    finally:
        shutil.rmtree(run.home.run_file)
    assert wait_until(lambda: run.facts().get("launcher_pid") == run.process.pid, 60, step=0.1)


def test_the_next_start_takes_over_after_its_launcher_was_killed(run: Run) -> None:
    before = run.facts()
    run.process.kill()
    run.process.wait()
    assert psutil.pid_exists(before["processes"]["web"])
    run.start()
    after = run.facts()
    assert not set(before["processes"].values()) & set(after["processes"].values())
    assert after["database_url"] == before["database_url"]
    assert "leftover processes" in run.output.read_text()


def test_an_interrupt_stops_everything_within_ten_seconds_and_keeps_the_data(run: Run) -> None:
    processes = [psutil.Process(pid) for pid in run.facts()["processes"].values()]
    began = time.monotonic()
    run.process.send_signal(signal.SIGINT)
    assert run.process.wait(timeout=60) == 0
    assert time.monotonic() - began < 10
    assert not any(map(is_running, processes))
    assert survivors(run.home) == []
    assert not run.home.run_file.exists()
    assert (run.home.postgres / "PG_VERSION").exists()
