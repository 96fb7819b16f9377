"""Supervision of the processes of one home: supervisord in a separate session, controlled over a Unix socket.

All of them and their children have the home's folder in their environment (MARK). By that mark they are found and ended
even without the launcher and the supervisor.
"""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any

import psutil
from supervisor.xmlrpc import SupervisorTransport

from deploy.local.errors import ProcessFailed
from deploy.local.home import PROJECT, Home

MARK = "RETORT_SUPERVISED_BY"  # the home's folder; with nested homes one per line
LAST_LINES = 30  # lines of a log in an error
# Starts of a process that stays up: PostgreSQL may need two after a crash, workers may start before the servers answer.
STARTS = 3
STOP_SECONDS = 4  # to finish the current batch; then the process is killed
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class Program:
    name: str
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    user: str | None = None
    stop_signal: str = "TERM"


@dataclass(frozen=True)
class State:
    name: str
    state: str
    pid: int
    log: Path


def configuration(home: Home, programs: Iterable[Program]) -> str:
    """Return supervisord's configuration. Paths and secrets are in the environment, so nothing needs escaping."""
    lines = [
        "[supervisord]",
        "nodaemon=true",
        "silent=true",
        "identifier=retort",
        "logfile=logs/supervisor.log",
        "logfile_maxbytes=1MB",
        "logfile_backups=1",
        "pidfile=logs/supervisor.pid",
        "minfds=256",
        "minprocs=1",
        *(["user=root"] if os.geteuid() == 0 else []),
        "[unix_http_server]",
        "file=%(ENV_RETORT_SOCKET)s",
        "chmod=0600",
        "[rpcinterface:supervisor]",
        "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface",
    ]
    for program in programs:
        environment = ",".join(f'{name}="{value}"' for name, value in program.environment.items())
        lines += [
            f"[program:{program.name}]",
            f"command=%(ENV_{_variable(program)})s",
            *([f"environment={environment}"] if environment else []),
            *([f"user={program.user}"] if program.user else []),
            f"directory={'/' if program.user else '%(ENV_RETORT_PROJECT)s'}",
            "autostart=false",  # the launcher starts them in order
            "autorestart=true",
            "startsecs=1",  # a program that ends earlier is restarted with growing pauses
            "startretries=20",
            f"stopsignal={program.stop_signal}",
            f"stopwaitsecs={STOP_SECONDS}",
            "killasgroup=true",
            "redirect_stderr=true",
            f"stdout_logfile=logs/{program.name}.log",
            "stdout_logfile_maxbytes=5MB",
            "stdout_logfile_backups=2",
        ]
    return "\n".join(lines) + "\n"


def _variable(program: Program) -> str:
    return "RETORT_COMMAND_" + program.name.upper().replace("-", "_")


class Supervisor:
    """Client of the supervisor of one home, whether or not this process started it."""

    def __init__(self, home: Home):
        self.home = home
        self.socket = home.sockets() / "supervisor.sock"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, programs: Iterable[Program], environment: Mapping[str, str]) -> None:
        programs = list(programs)
        self.home.supervisor_config.write_text(configuration(self.home, programs))
        variables = {
            **environment,
            **{_variable(program): shlex.join(program.command) for program in programs},
            "RETORT_PROJECT": str(PROJECT),
            "RETORT_SOCKET": str(self.socket),
        }
        output = self.home.logs / "supervisor.out"
        with output.open("wb") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "supervisor.supervisord", "-n", "-c", "supervisor.conf"],
                # A separate session, so that Ctrl-C reaches only the launcher, which stops everything in order.
                cwd=self.home.folder, env=variables, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=file, stderr=file,
            )  # fmt: skip
        deadline = time.monotonic() + 60
        while not self.answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise ProcessFailed(f"supervisor did not start:\n{tail(output)}")
            time.sleep(0.02)

    def _call(self, method: str, *arguments: Any) -> Any:
        transport = SupervisorTransport(None, None, f"unix://{self.socket}")
        try:
            server = xmlrpc.client.ServerProxy("http://localhost", transport=transport)
            return getattr(server.supervisor, method)(*arguments)
        finally:
            transport.close()

    def answers(self) -> bool:
        try:
            self._call("getState")
        except xmlrpc.client.Fault:
            return True  # it is shutting down
        except (OSError, HTTPException):
            return False
        return True

    def is_alive(self) -> bool:
        """Return whether the supervisor started by this process is running."""
        return self._process is not None and self._process.poll() is None

    def states(self) -> dict[str, State]:
        return {
            info["name"]: State(
                info["name"], info["statename"], info["pid"], self.home.logs / f"{info['name']}.log"
            )
            for info in self._call("getAllProcessInfo")
        }

    def run(self, *names: str) -> None:
        """Start programs that are not running, without waiting."""
        for name in names:
            try:
                self._call("startProcess", name, False)
            except xmlrpc.client.Fault as fault:
                if "ALREADY_STARTED" not in fault.faultString:
                    raise ProcessFailed(
                        f"{name} could not be started: {fault.faultString}"
                    ) from fault

    def reap(self) -> None:
        """Collect the exit status of a killed supervisor that this process started."""
        if self._process:
            self._process.wait(timeout=10)


class Watch:
    """Detects processes that do not stay up while the launcher waits for others."""

    def __init__(self, names: list[str]):
        self._seen: dict[str, set[int]] = {name: set() for name in names}

    def check(self, states: dict[str, State]) -> None:
        """Raise ProcessFailed if a process has ended too often."""
        for name, pids in self._seen.items():
            state = states[name]
            if state.pid:
                pids.add(state.pid)
            if state.state == "FATAL" or len(pids) > STARTS:
                raise ProcessFailed(f"{name} does not stay up. Its log ends:\n{tail(state.log)}")


def marked(environment: Mapping[str, str], home: Home) -> dict[str, str]:
    """Return the environment for processes of this home; homes may be nested."""
    return {**environment, MARK: f"{environment.get(MARK, '')}\n{home.folder}".lstrip()}


def survivors(home: Home) -> list[psutil.Process]:
    """Return the running processes of this home, except this process and its parents."""
    kin = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):  # another account's, or already gone
            marks = process.environ().get(MARK, "").split("\n")
            if process.pid not in kin and str(home.folder) in marks and is_running(process):
                found.append(process)
    return found


def end_processes(home: Home, *, last: Collection[str] = ()) -> int:
    """Stop this home's processes, the ones named in `last` after the others. Return how many there were."""
    found = survivors(home)
    # The supervisor first, because it would restart the others.
    _kill([process for process in found if _is_supervisor(process)])
    pids = {process.pid for process in found if not _is_supervisor(process)}
    for final in (False, True):
        group = [process for process in survivors(home) if (_name(process) in last) == final]
        for process in group:
            with contextlib.suppress(psutil.Error):
                if process.ppid() in pids:
                    continue  # its parent ends it
                # On SIGTERM PostgreSQL would wait for its clients.
                is_postgres = process.name() == "postgres"
                process.send_signal(signal.SIGINT if is_postgres else signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        while any(map(is_running, group)) and time.monotonic() < deadline:
            time.sleep(0.02)
        _kill(group)
    (home.sockets() / "supervisor.sock").unlink(missing_ok=True)
    return len(found)


def kill_processes(home: Home) -> None:
    """Kill this home's processes, including ones that start in the meantime. Signals do not interrupt it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        deadline = time.monotonic() + 5
        while (found := survivors(home)) and time.monotonic() < deadline:
            _kill([process for process in found if _is_supervisor(process)])
            _kill(found)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _kill(targets: list[psutil.Process]) -> None:
    for process in targets:
        with contextlib.suppress(psutil.Error):
            process.kill()
    deadline = time.monotonic() + 2
    while any(map(is_running, targets)) and time.monotonic() < deadline:
        time.sleep(0.01)


def is_running(process: psutil.Process) -> bool:
    """Return whether the process is running. A zombie is not; without an init process it may stay one."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _name(process: psutil.Process) -> str:
    """Return the supervisor's name of the process or of its parent."""
    try:
        return process.environ().get("SUPERVISOR_PROCESS_NAME", "")
    except (psutil.Error, OSError):
        return ""


def _is_supervisor(process: psutil.Process) -> bool:
    try:
        return "supervisor.supervisord" in process.cmdline()
    except psutil.Error:
        return False


def tail(log: Path) -> str:
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-LAST_LINES:])
    except OSError:
        return f"(no {log})"
