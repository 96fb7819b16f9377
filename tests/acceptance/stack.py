"""A whole stack in separate processes, started as a user starts it, with an HTTP client and access to the database."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psycopg2
import psycopg2.extras

from deploy.local import ports
from deploy.local.home import Home, read_json
from deploy.local.supervision import kill_processes

ROOT = Path(__file__).resolve().parents[2]
TERMINAL = ("succeeded", "failed", "canceled")
T = TypeVar("T")
PATIENCE_SECONDS = 1800  # far above any usual wait, so that a slow machine fails no test


def wait_for(look: Callable[[], T], what: str, *, seconds: float = PATIENCE_SECONDS) -> T:
    """Return the first true result of `look`; fail with the last one after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        seen = look()
        if seen:
            return seen
        if time.monotonic() > deadline:
            raise AssertionError(f"after {seconds:g} s still not: {what} (saw {seen!r})")
        time.sleep(0.05)


class StartFailed(AssertionError):
    """The stack did not get ready; none of its processes is left."""


class Stack:
    """`python -m deploy.local run` with its own home. Use it as a context manager, or call stop()."""

    def __init__(
        self,
        home: Path,
        *,
        workers: int,
        env: dict[str, str],
        ready_seconds: float = PATIENCE_SECONDS,
        code: Path = ROOT,
    ) -> None:
        """code: the clone whose processes run."""
        self.home = home
        self.code = code
        home.mkdir(parents=True, exist_ok=True)
        self.env = {
            **{
                k: v
                for k, v in os.environ.items()
                if k not in ("DATABASE_URL", "REDIS_URL", "DATA_DIR")
            },
            "RETORT_HOME": str(home),
            "WORKERS": str(workers),
            "PORT": str(ports.pick()),
            "VARIANT_IMAGES": "false",  # 256 images, which take the cores from the tests
            **env,
        }
        self.log = (home / "launcher.log").open("w")
        # In its own session: Ctrl-C in the terminal reaches only the tests, which then stop the stack.
        self.process = subprocess.Popen(
            [sys.executable, "-m", "deploy.local", "run", "--no-picture"],
            cwd=self.code,
            env=self.env,
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
        )
        try:
            # The launcher ends by itself when a process fails or the stack is not ready in time.
            self.run = wait_for(self._ready, "the stack is ready", seconds=ready_seconds)
        except BaseException as error:
            self._end()
            if isinstance(error, AssertionError):
                raise StartFailed(f"{error}\n{self._log_tail()}") from None
            raise
        self.http = httpx.Client(
            base_url=self.run["base_url"],
            headers={"Authorization": f"Bearer {self.run['api_key']}"},
            timeout=90,
        )
        self.rows = psycopg2.connect(self.run["database_url"])
        self.rows.autocommit = True

    def __enter__(self) -> "Stack":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _ready(self) -> dict[str, Any] | None:
        if self.process.poll() is not None:
            raise AssertionError("the launcher ended")
        return read_json(self.home / "run.json") or None

    def _log_tail(self) -> str:
        return (self.home / "launcher.log").read_text()[-3000:]

    def stop(self) -> int:
        """Return the launcher's exit code: 0 after an orderly stop."""
        self.rows.close()
        self.http.close()
        return self._end()

    def _end(self) -> int:
        """End the launcher, then kill the processes that are left."""
        try:
            self.process.send_signal(signal.SIGINT)
            return self.process.wait(timeout=120)
        finally:
            self.process.kill()
            kill_processes(Home(self.home))
            self.process.wait()
            self.log.close()

    def pid(self, name: str) -> int:
        """Return the process ID. Wait while the process is being restarted."""

        def look() -> int | None:
            return json.loads((self.home / "run.json").read_text())["processes"].get(name)

        return wait_for(look, f"{name} runs")

    def manage(self, *arguments: str) -> str:
        """Run manage.py with the environment of the stack and return its output."""
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=self.code,
            env=self.manage_env(),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    def manage_env(self) -> dict[str, str]:
        return {
            **self.env,
            "DATABASE_URL": self.run["database_url"],
            "REDIS_URL": self.run["redis_url"],
            "DATA_DIR": self.run["data_dir"],
            "SECRET_KEY": self.run["secret_key"],
        }

    # --- jobs ---
    def submit(self, **fields: Any) -> dict[str, Any]:
        answer = self.http.post("/v1/jobs", json=fields)
        assert answer.status_code in (200, 202), answer.text
        return answer.json()

    def job(self, job_id: str, wait: float = 0) -> dict[str, Any]:
        answer = self.http.get(f"/v1/jobs/{job_id}", params={"wait": wait} if wait else {})
        answer.raise_for_status()
        return answer.json()

    def ended(self, job_ids: Iterable[str]) -> list[dict[str, Any]]:
        """Wait until all of these jobs have ended and return them."""
        wanted = list(job_ids)

        def look() -> bool:
            rows = self.query("SELECT count(*) AS n FROM generation_job WHERE id = ANY(%s::uuid[])"
                              " AND status = ANY(%s)", wanted, list(TERMINAL))  # fmt: skip
            return rows[0]["n"] == len(wanted)

        wait_for(look, f"{len(wanted)} jobs have ended")
        return [self.job(job_id) for job_id in wanted]

    def query(self, sql: str, *parameters: Any) -> list[dict[str, Any]]:
        """Return rows from PostgreSQL; connect again when it was restarted."""
        for tries in range(100):
            try:
                if self.rows.closed:
                    self.rows = psycopg2.connect(self.run["database_url"])
                    self.rows.autocommit = True
                with self.rows.cursor(cursor_factory=psycopg2.extras.RealDictCursor) as cursor:
                    cursor.execute(sql, parameters)
                    return [dict(row) for row in cursor.fetchall()] if cursor.description else []
            except (psycopg2.OperationalError, psycopg2.InterfaceError):
                if tries == 99:
                    raise
                self.rows.close()
                time.sleep(0.1)
        raise AssertionError("unreachable")

    def running_on(self, job_id: str, *, attempt: int = 1) -> str:
        """Wait until a worker has computed steps of this attempt and return the worker's name."""

        def look() -> str | None:
            job = self.job(job_id)
            assert job["status"] in ("queued", "running"), job
            is_running = job["status"] == "running" and job["attempt"] == attempt
            if not is_running or job["progress"] == 0:
                return None
            rows = self.query("SELECT worker_name FROM generation_job WHERE id = %s", job_id)
            return rows[0]["worker_name"]

        return wait_for(look, f"a worker runs attempt {attempt} of the job")

    def attempts(self, job_id: str) -> list[tuple[int, str]]:
        rows = self.query(
            "SELECT number, outcome FROM generation_attempt WHERE job_id = %s ORDER BY number",
            job_id,
        )
        return [(row["number"], row["outcome"]) for row in rows]

    def workers_alive(self) -> list[str]:
        rows = self.query("SELECT name FROM generation_worker WHERE queue = 'generation'"
                          " AND heartbeat_at > now() - interval '5 s' ORDER BY name")  # fmt: skip
        return [row["name"] for row in rows]
