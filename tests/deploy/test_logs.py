"""Logs: JSON from the first line of each process, and shown together sorted by time."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from deploy.local import __main__ as launcher
from deploy.local import logs
from deploy.local.home import Home
from tests.celery_worker import workers
from tests.web import ROOT, Web, eventually

JOB = "5f3c1c1e-0000-4000-8000-000000000001"


def line(second: int, event: str, **facts: str) -> str:
    at = f"2026-01-31T10:00:{second:02}.000000Z"
    return json.dumps({"event": event, "level": "info", "timestamp": at, **facts}) + "\n"


@pytest.fixture
def home(tmp_path: Path, monkeypatch) -> Home:
    monkeypatch.setenv("RETORT_HOME", str(tmp_path / "home"))
    home = Home()
    home.create()
    (home.logs / "web.log.1").write_text(line(1, "job_accepted", job_id=JOB))
    (home.logs / "web.log").write_text(line(4, "request_finished") + "worker: Warm shutdown\n")
    (home.logs / "light.log").write_text(line(2, "worker_ready") + line(3, "swept", job_id=JOB))
    return home


def test_the_lines_of_all_processes_are_sorted_by_time(home: Home):
    read = logs.read(home, [])
    assert [(found.process, found.fields.get("event", found.text)) for found in read] == [
        ("web", "job_accepted"),
        ("light", "worker_ready"),
        ("light", "swept"),
        ("web", "request_finished"),
        ("web", "worker: Warm shutdown"),
    ]


def test_the_lines_of_one_job_are_shown(home: Home, capsys):
    assert launcher.main(["logs", "--job", JOB]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 2 and "job_accepted" in shown[0] and "swept" in shown[1]
    assert launcher.main(["logs", "--json", "--job", JOB, "light"]) == 0
    assert json.loads(capsys.readouterr().out)["event"] == "swept"


def test_a_closed_output_pipe_is_no_error(home: Home):
    (home.logs / "web.log").write_text(line(4, "request_finished") * 20_000)
    command = [sys.executable, "-m", "deploy.local", "logs"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True) as shown:
        assert shown.stdout and shown.stderr
        assert "job_accepted" in shown.stdout.readline()
        shown.stdout.close()
        assert shown.stderr.read() == ""
    assert shown.returncode == 0


def test_an_unknown_process_is_refused_with_the_known_names(home: Home, capsys):
    assert launcher.main(["logs", "lihgt"]) == 1
    assert "no log of lihgt. Existing logs: light, web" in capsys.readouterr().err


def test_following_shows_lines_that_are_written_later(home: Home):
    path = home.logs / "light.log"
    followed: list[str] = []

    def follow() -> None:
        for found in logs.follow(home, []):
            followed.append(found.fields["event"])
            if found.fields["event"] == "last":
                return

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()

    def writes(second: int = 5) -> bool:
        with path.open("a") as file:
            file.write(line(second, "late"))
        return "late" in followed

    eventually(writes)
    path.write_text(line(6, "last"))  # rotated: the file begins anew
    thread.join(timeout=60)
    assert followed[-1] == "last" and "worker_ready" not in followed


@pytest.mark.django_db(transaction=True)
def test_a_worker_writes_json_from_its_first_line(tmp_path: Path, redis_server):
    with workers(tmp_path) as start:
        worker = start("worker-of-logs", "light")
        eventually(lambda: "worker_ready" in worker.log.read_text(), seconds=120)
    assert [text for text in worker.log.read_text().splitlines() if not is_json(text)] == []


def test_the_web_process_writes_json_from_its_first_line(web: Web):
    texts = web.log.read_text().splitlines()
    assert texts and [text for text in texts if not is_json(text)] == []


def is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False
