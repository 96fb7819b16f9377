"""One whole stack on this machine, from nothing to serving (`Stack.start`) and back (`Stack.stop`)."""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from importlib.metadata import version
from pathlib import Path
from typing import Any
from xmlrpc.client import Fault

import psutil

from deploy.local import ports, processes
from deploy.local.api import API
from deploy.local.errors import APIError, LocalError, ProcessFailed
from deploy.local.home import PROJECT, Home, read_json, write_json
from deploy.local.postgresql import PostgreSQL, wait_until
from deploy.local.redis import Redis
from deploy.local.supervision import State, Supervisor, clear_leftovers, tail

READY_SECONDS = 180  # a slow disk reads torch for the first time
STOP_SECONDS = (
    6  # for the project's processes; with the servers' own limits the whole stop stays below 10
)


def say(text: str) -> None:
    """Progress is for people: stdout stays free for answers."""
    print(text, file=sys.stderr, flush=True)


class Stack:
    """Use as a context manager, or start() and stop() in pairs.

    home: the folder. port: of the web process; None for the default or the next free one. env: more environment.
    """

    def __init__(
        self,
        home: Home | Path | None = None,
        *,
        workers: int = 1,
        port: int | None = None,
        env: Mapping[str, str] | None = None,
        on_progress: Callable[[str], None] = say,
    ):
        self.home = home if isinstance(home, Home) else Home(home)
        self.workers = workers
        self.wanted_port = port
        self.say = on_progress
        self.environment = {**os.environ, **(env or {})}
        self.postgres: PostgreSQL | None = None
        self.redis: Redis | None = None
        self.supervisor = Supervisor(self.home)
        self.new_admin_password: str | None = None  # only of the start that made the account
        self.base_url = ""
        self.api_key = ""
        self._servers: list[str] = []
        self._application: list[str] = []
        self._pids: dict[str, int] = {}

    def __enter__(self) -> "Stack":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # --- up ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Everything up and answering. On failure nothing of ours is left running."""
        self.home.lock()
        try:
            self.home.run_file.unlink(missing_ok=True)
            if ended := clear_leftovers(self.home, last=processes.SERVERS):
                self.say(f"Ended {ended} processes that an earlier start had left behind.")
            self._choose_places()
            self._start_servers()
            self._start_application()
            self._wait_until_ready()
            self._state_facts(self.supervisor.states())
        except BaseException:
            if self.new_admin_password:  # it is stored nowhere, so the next start cannot say it
                self.say(f"Admin account made: admin, password {self.new_admin_password}")
            self.stop()
            raise

    def _choose_places(self) -> None:
        secrets = self.home.secrets()
        memory = self.home.folder / "ports.json"
        if not self.environment.get("DATABASE_URL"):
            self.postgres = PostgreSQL(
                self.home.postgres,
                port=ports.remembered(memory, "postgres"),
                password=secrets["postgres_password"],
            )
            self.environment["DATABASE_URL"] = self.postgres.url
        if not self.environment.get("REDIS_URL"):
            self.redis = Redis(
                self.home.redis,
                port=ports.remembered(memory, "redis"),
                password=secrets["redis_password"],
            )
            self.environment["REDIS_URL"] = self.redis.url
        elif not ports.answers(self.environment["REDIS_URL"]):
            raise LocalError(
                "Nothing answers at REDIS_URL. Start that Redis, or leave the variable out."
            )
        port = ports.for_web(self.wanted_port)
        if self.wanted_port is None and port != 8000:
            self.say(f"Port 8000 is taken by {ports.holder(8000)}: using {port}.")
        self.port = port
        self.base_url = f"http://{ports.HOST}:{port}"
        self.api_key = self.environment.setdefault("LOCAL_API_KEY", secrets["LOCAL_API_KEY"])
        self.environment.setdefault("SECRET_KEY", secrets["SECRET_KEY"])
        self.environment.setdefault("DATA_DIR", str(self.home.data))
        self.environment["PYTHONUNBUFFERED"] = "1"

    def _start_servers(self) -> None:
        servers = [server for server in (self.postgres, self.redis) if server]
        if self.postgres and not self.postgres.data.exists():
            self.say("Making a PostgreSQL data folder …")
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda server: server.prepare(), servers))
        programs = processes.servers(self.postgres, self.redis)
        application = processes.application(port=self.port, workers=self.workers)
        self._servers = [program.name for program in programs]
        self._application = [program.name for program in application]
        self.supervisor.start([*programs, *application], self.environment)
        if not servers:
            return
        self.say(
            "Starting "
            + " and ".join({"postgres": "PostgreSQL", "redis": "Redis"}[n] for n in self._servers)
            + " …"
        )
        self.supervisor.run(*self._servers)
        watch = Watch(self._servers)
        for name, server in zip(self._servers, servers, strict=True):

            def settled(server: PostgreSQL | Redis = server) -> bool:
                watch.check(self.supervisor.states())
                return server.is_ready()

            if not wait_until(settled, 60, step=0.03):
                raise ProcessFailed(
                    f"{name} does not answer:\n{tail(self.home.logs / f'{name}.log')}"
                )

    def _start_application(self) -> None:
        """Workers that meet an old schema fail, so they wait for the bootstrap, unless it has nothing to migrate."""
        mark = self.home.folder / "bootstrapped.json"
        state = {"fingerprint": self._fingerprint()}
        serving = f"Starting the web process and {self.workers + 4} workers …"
        # A database of somebody else's may have been emptied since.
        if self.postgres and read_json(mark) == state:
            self.say(serving)
            # What the first picture needs gets the cores first.
            self.supervisor.run("web", *processes.generation(self.workers))
            self._bootstrap()
        else:
            self._bootstrap()
            self.say(serving)
            write_json(mark, state)
        self.supervisor.run(*self._application)

    def _fingerprint(self) -> str:
        """Of everything that decides the schema: our migrations, Django's, and the folder of the data."""
        digest = hashlib.sha256(version("django").encode())
        digest.update((PROJECT / "requirements.txt").read_bytes())
        for path in sorted(PROJECT.glob("*/migrations/*.py")):
            digest.update(path.name.encode() + path.read_bytes())
        if self.postgres:
            digest.update(str((self.postgres.data / "PG_VERSION").stat().st_ino).encode())
        return digest.hexdigest()

    def _bootstrap(self) -> None:
        command = [sys.executable, "manage.py", "bootstrap", "--json"]
        # Its steps are said; a log line each would say them twice.
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
            for line in process.stderr:
                if failure or line.startswith(("CommandError", "Traceback")):
                    failure.append(line)
                else:
                    self.say(line.rstrip())
            answer = process.stdout.read()
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
                self.say(f"… {now - began:.0f} s: {reason}")
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
            "secret_key": self.environment["SECRET_KEY"],
            "data_dir": self.environment["DATA_DIR"],
            "home": str(self.home.folder),
            "launcher_pid": os.getpid(),
            "processes": self._pids,
        }

    def _state_facts(self, states: dict[str, State]) -> None:
        pids = {name: state.pid for name, state in states.items() if state.pid}
        if pids != self._pids or not self.home.run_file.exists():
            self._pids = pids
            write_json(self.home.run_file, self.facts())

    def watch(self) -> None:
        """One look: note new pids, and start again what the supervisor gave up on. Raises when it is gone itself."""
        if not self.supervisor.is_alive():
            raise ProcessFailed(f"supervisor ended. Its log: {self.home.logs / 'supervisor.log'}")
        try:
            states = self.supervisor.states()
        except (OSError, HTTPException, Fault):
            return  # ending; the next look will tell
        for state in states.values():
            known = self._pids.get(state.name)
            if known and state.pid and state.pid != known:
                self.say(f"{state.name} ended and was started again (pid {state.pid}).")
            if state.state == "FATAL":
                self.say(f"{state.name} does not stay up; trying again. Its log: {state.log}")
                self.supervisor.run(state.name)
        self._state_facts(states)

    # --- down -------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """In order, within 10 seconds: those that use the servers first. The data stays."""
        self.home.run_file.unlink(missing_ok=True)
        try:
            if self.supervisor.is_alive():
                self.supervisor.stop(*reversed(self._application), seconds=STOP_SECONDS)
                self.supervisor.stop(*reversed(self._servers), seconds=3)
            else:
                clear_leftovers(self.home, last=processes.SERVERS)
                self._stop_orphaned_servers()
        except (OSError, HTTPException, Fault, LocalError) as error:
            self.say(f"Stopping was not orderly: {error}")
        finally:
            self.supervisor.shut_down(seconds=1)
            self.home.unlock()

    def _stop_orphaned_servers(self) -> None:
        """Those whose environment cannot be read: Redis writes its title over it. Their folders know their pids."""
        for server in (self.redis, self.postgres):
            if server:
                server.stop_leftover()

    def kill(self) -> None:
        """At once, in no order."""
        self.supervisor.kill()
        self._stop_orphaned_servers()
        self.home.run_file.unlink(missing_ok=True)
        self.home.unlock()


class Watch:
    """Finds processes that do not stay up while others are waited for."""

    def __init__(self, names: list[str], *, tries: int = 3):
        self._tries = tries  # PostgreSQL may need two after a crash; a worker may meet a server that is not up yet
        self._seen: dict[str, set[int]] = {name: set() for name in names}

    def check(self, states: dict[str, State]) -> None:
        """Raises ProcessFailed."""
        for name, pids in self._seen.items():
            state = states[name]
            if state.pid:
                pids.add(state.pid)
            if state.state == "FATAL" or len(pids) > self._tries:
                raise ProcessFailed(f"{name} does not stay up. Its log ends:\n{tail(state.log)}")


def is_serving(home: Home) -> bool:
    facts = home.read_run()
    return bool(facts) and psutil.pid_exists(facts["launcher_pid"])
