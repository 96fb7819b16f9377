"""A complete stack on this machine: start, supervision and stop."""

import hashlib
import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from http.client import HTTPException
from importlib.metadata import version
from typing import Any
from xmlrpc.client import Fault

import psutil

from deploy.local import ports, processes
from deploy.local.api import API
from deploy.local.errors import APIError, ProcessFailed
from deploy.local.home import PROJECT, Home, read_json, write_json
from deploy.local.management import SCHEMA_MARK
from deploy.local.servers import Servers, say
from deploy.local.supervision import State, Supervisor, Watch

READY_SECONDS = 600  # enough for a slow machine; failing processes are detected much earlier


class Stack:
    """The servers and all processes of the project. port: of the web process; None = 8000 or the next free one."""

    def __init__(self, home: Home, *, workers: int = 1, port: int | None = None):
        self.home = home
        self.workers = workers
        self.wanted_port = port
        self.servers = Servers(home, os.environ)
        self.supervisor = self.servers.supervisor
        self.environment = self.servers.environment
        self.new_admin_password: str | None = None  # set only by the start that created the account
        self.base_url = ""
        self.api_key = ""
        self._application: list[str] = []
        self._pids: dict[str, int] = {}
        self._unwritten = ""  # why run.json was not written

    # --- start ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start everything and wait until it answers. After a failure all our processes are stopped."""
        self.home.lock()
        try:
            self.home.run_file.unlink(missing_ok=True)
            self.servers.prepare()
            self._choose_port()
            application = processes.application(port=self.port, workers=self.workers)
            self._application = [program.name for program in application]
            self.servers.start(application)
            self._start_application()
            self._wait_until_ready()
            self._state_facts(self.supervisor.states())
        except BaseException:
            if self.new_admin_password:  # it is stored nowhere, so the next start cannot print it
                say(f"Admin account made: admin, password {self.new_admin_password}")
            self.stop()
            raise

    def _choose_port(self) -> None:
        self.port = ports.for_web(self.wanted_port)
        if self.wanted_port is None and self.port != ports.DEFAULT:
            holder = ports.holder(ports.DEFAULT)
            say(f"Port {ports.DEFAULT} is taken by {holder}: using {self.port}.")
        self.base_url = f"http://{ports.HOST}:{self.port}"
        local_key = self.home.secrets()["LOCAL_API_KEY"]
        self.api_key = self.environment.setdefault("LOCAL_API_KEY", local_key)
        self.environment["PYTHONUNBUFFERED"] = "1"

    def _start_application(self) -> None:
        """Start the project's processes after the bootstrap, or before it if there is nothing to migrate."""
        mark = self.home.folder / SCHEMA_MARK
        state = {"fingerprint": self._fingerprint()}
        serving = f"Starting the web process and {self.workers + 4} workers …"
        # The database of an external server may have been emptied in the meantime.
        if self.servers.postgres and read_json(mark) == state:
            say(serving)
            # The processes for the first picture get the cores first.
            self.supervisor.run("web", *processes.generation(self.workers))
            self._bootstrap()
        else:
            self._bootstrap()
            say(serving)
            write_json(mark, state)
        self.supervisor.run(*self._application)

    def _fingerprint(self) -> str:
        """Return a hash of everything that determines the schema: our migrations, packages, and the data folder."""
        digest = hashlib.sha256(version("django").encode())
        digest.update((PROJECT / "requirements.lock").read_bytes())
        for path in sorted(PROJECT.glob("*/migrations/*.py")):
            digest.update(path.name.encode() + path.read_bytes())
        if self.servers.postgres:
            digest.update(str((self.servers.postgres.data / "PG_VERSION").stat().st_ino).encode())
        return digest.hexdigest()

    def _bootstrap(self) -> None:
        command = [sys.executable, "manage.py", "bootstrap", "--json"]
        # Its steps are printed; log lines would repeat them.
        environment = {**self.environment, "LOG_LEVEL": "WARNING"}
        with subprocess.Popen(
            command,
            cwd=PROJECT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout and process.stderr
            failure: list[str] = []
            try:
                for line in process.stderr:
                    if failure or line.startswith(("CommandError", "Traceback")):
                        failure.append(line)
                    else:
                        say(line.rstrip())
                answer = process.stdout.read()
            except BaseException:
                process.kill()  # the end of the block would wait for it
                raise
        if process.returncode != 0:
            reason = "".join(failure[-30:]).removeprefix("CommandError: ")
            raise ProcessFailed(f"The database could not be prepared:\n{reason}")
        self.new_admin_password = json.loads(answer.splitlines()[-1])["admin_password"]

    def _wait_until_ready(self) -> None:
        api = API(self.base_url, self.api_key)
        watch = Watch(self._application)
        reason = "it does not answer"
        began = said = time.monotonic()
        while True:
            states = self.supervisor.states()
            watch.check(states)
            try:
                api.get("/health/ready")
                if all(states[name].state == "RUNNING" for name in self._application):
                    return
            except APIError as error:
                reason = str(error)
            now = time.monotonic()
            if now - began > READY_SECONDS:
                raise ProcessFailed(
                    f"Not ready after {READY_SECONDS} s: {reason}. The logs are in {self.home.logs}."
                )
            if now - said > 10:
                said = now
                say(f"… {now - began:.0f} s: {reason}")
            time.sleep(0.1)

    # --- serving ----------------------------------------------------------------------------------------------

    def facts(self) -> dict[str, Any]:
        return {
            "base_url": self.base_url,
            "admin_url": f"{self.base_url}/admin/",
            "docs_url": f"{self.base_url}/v1/docs",
            "api_key": self.api_key,
            "database_url": self.environment["DATABASE_URL"],
            "redis_url": self.environment["REDIS_URL"],
            "metrics_token": self.environment["METRICS_TOKEN"],
            "secret_key": self.environment["SECRET_KEY"],
            "data_dir": self.environment["DATA_DIR"],
            "home": str(self.home.folder),
            "launcher_pid": os.getpid(),
            "processes": self._pids,
        }

    def _state_facts(self, states: dict[str, State]) -> None:
        pids = {name: state.pid for name, state in states.items() if state.pid}
        if pids != self._pids or self._unwritten or not self.home.run_file.exists():
            self._pids = pids
            write_json(self.home.run_file, self.facts())

    def watch(self) -> None:
        """Record new pids, and restart programs that the supervisor gave up. Raises ProcessFailed if it has ended."""
        if not self.supervisor.is_alive():
            raise ProcessFailed(f"supervisor ended. Its log: {self.home.logs / 'supervisor.log'}")
        try:
            states = self.supervisor.states()
        except (OSError, HTTPException, Fault):
            return  # it is ending; the next call detects that
        for state in states.values():
            known = self._pids.get(state.name)
            if known and state.pid and state.pid != known:
                say(f"{state.name} ended and was started again (pid {state.pid}).")
            if state.state == "FATAL":
                say(f"{state.name} does not stay up; trying again. Its log: {state.log}")
                self.supervisor.run(state.name)
        try:
            self._state_facts(states)
            self._unwritten = ""
        except OSError as error:  # such as a full disk: the stack keeps running
            if str(error) != self._unwritten:
                self._unwritten = str(error)
                say(f"{self.home.run_file} was not written: {error}")

    # --- stop -------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Stop everything in order, within 10 seconds. The data is kept."""
        self._remove_facts()
        self.servers.stop()

    def kill(self) -> None:
        """Kill everything."""
        self._remove_facts()
        self.servers.kill()

    def _remove_facts(self) -> None:
        with suppress(OSError):  # a read-only disk must not keep the processes alive
            self.home.run_file.unlink()


def is_serving(home: Home) -> bool:
    """Return whether a stack is running. After a power failure the recorded pid may be another program's."""
    facts = home.read_run()
    return psutil.pid_exists(facts.get("launcher_pid", 0)) and Supervisor(home).answers()
