"""Upgrade of a database and a data folder of the previous release, while clients send requests and jobs run."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests import previous_release
from tests.acceptance.stack import ROOT, Stack, wait_for

pytestmark = [pytest.mark.acceptance, pytest.mark.slow]
ENV = {"LEASE_SECONDS": "4", "SWEEP_SECONDS": "1", "WORKER_STALE_SECONDS": "8"}


class Client(threading.Thread):
    """Submits one job after another and keeps the answers."""

    def __init__(self, stack: Stack, variant: str) -> None:
        super().__init__()
        self.stack, self.variant = stack, variant
        self.ids: list[str] = []
        self.refusals: list[str] = []
        self.ends = threading.Event()

    def run(self) -> None:
        while not self.ends.wait(0.2):
            answer = self.stack.http.post("/v1/jobs", json={"variant": self.variant})
            if answer.status_code == 202:
                self.ids.append(answer.json()["id"])
            else:
                self.refusals.append(answer.text)


def shas(stack: Stack, job_ids: list[str]) -> dict[str, str]:
    rows = stack.query(
        "SELECT job_id, sha256 FROM generation_image WHERE job_id = ANY(%s::uuid[])", job_ids
    )
    return {str(row["job_id"]): row["sha256"] for row in rows}


def test_old_processes_serve_during_the_migrations_and_new_ones_finish_their_jobs(
    tmp_path: Path,
):
    code = previous_release.extract(tmp_path / "code")
    with Stack(tmp_path / "home", workers=1, env=ENV, code=code) as old:
        (variant,) = old.query(
            "SELECT slug FROM generation_promptvariant WHERE status = 'active' LIMIT 1"
        )
        slug = variant["slug"]
        fields = {"variant": slug, "seed": 7}
        first = old.submit(**fields)["id"]
        old.ended([first])
        client = Client(old, slug)
        client.start()
        wait_for(lambda: len(client.ids) >= 3, "a client asks")

        done = subprocess.run(
            [sys.executable, "manage.py", "bootstrap"], cwd=ROOT, env=old.manage_env(), capture_output=True, text=True
        )  # fmt: skip
        assert done.returncode == 0 and "Migrating the database" in done.stderr, done.stderr[-3000:]

        begun = len(client.ids)
        wait_for(lambda: len(client.ids) >= begun + 5, "the client goes on")
        old.ended(client.ids[begun : begun + 2])  # by old processes, on the new schema
        client.ends.set()
        client.join()
        ids = [first, *client.ids, *(old.submit(variant=slug)["id"] for _ in range(30))]
        kept = shas(old, ids)
        assert client.refusals == [] and kept
    with Stack(tmp_path / "home", workers=1, env=ENV) as new:
        assert {job["status"] for job in new.ended(ids)} == {"succeeded"}
        now = shas(new, ids)
        assert set(now) == set(ids) and now.items() >= kept.items()
        assert new.submit(**fields)["cache"] == "hit"
        link = new.job(first)["images"][0]["url"]
        assert new.http.get(link).status_code == 200
