"""Keeps processes up: `supervisor` in the foreground of a session of its own, spoken to over a private Unix socket.

It outlives a killed launcher, and the next launcher finds it by that socket. Knows programs only as names and commands.
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

MARK = "RETORT_SUPERVISED_BY"  # in the environment of every process of a stack: its folder
GONE = ("STOPPED", "EXITED", "FATAL", "UNKNOWN")


@dataclass(frozen=True)
class Program:
    name: str
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    user: str | None = None
    stop_signal: str = "TERM"
    stop_seconds: int = 4  # then it is killed
    up_after_seconds: int = 1  # one that ends earlier is started again with growing pauses


@dataclass(frozen=True)
class State:
    name: str
    state: str
    pid: int
    log: Path


def configuration(home: Home, programs: Iterable[Program]) -> str:
    """No secret and no path is written here: they come through the environment, where nothing needs escaping."""
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
            f"startsecs={program.up_after_seconds}",
            "startretries=20",
            f"stopsignal={program.stop_signal}",
            f"stopwaitsecs={program.stop_seconds}",
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
    """The supervisor of one home, whether or not this process started it."""

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
            MARK: str(self.home.folder),
            "RETORT_PROJECT": str(PROJECT),
            "RETORT_SOCKET": str(self.socket),
        }
        output = self.home.logs / "supervisor.out"
        with output.open("wb") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "supervisor.supervisord", "-n", "-c", "supervisor.conf"],
                # Its own session: a Ctrl-C in the terminal reaches the launcher, which stops things in order.
                cwd=self.home.folder, env=variables, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=file, stderr=file,
            )  # fmt: skip
        deadline = time.monotonic() + 20
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
        return self._process.poll() is None if self._process else self.answers()

    def states(self) -> dict[str, State]:
        return {
            info["name"]: State(
                info["name"], info["statename"], info["pid"], self.home.logs / f"{info['name']}.log"
            )
            for info in self._call("getAllProcessInfo")
        }

    def run(self, *names: str) -> None:
        """Start without waiting; a program that runs already is left alone."""
        for name in names:
            try:
                self._call("startProcess", name, False)
            except xmlrpc.client.Fault as fault:
                if "ALREADY_STARTED" not in fault.faultString:
                    raise ProcessFailed(
                        f"{name} could not be started: {fault.faultString}"
                    ) from fault

    def stop(self, *names: str, seconds: float) -> None:
        """Stop these together and wait until they are gone, at most `seconds`."""
        if not names:
            return
        for name in names:
            try:
                self._call("stopProcess", name, False)
            except xmlrpc.client.Fault as fault:
                if "NOT_RUNNING" not in fault.faultString:
                    raise ProcessFailed(f"{name}: {fault.faultString}") from fault
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            states = self.states()
            if all(states[name].state in GONE for name in names):
                return
            time.sleep(0.05)

    def shut_down(self, seconds: float = 8) -> None:
        """End the supervisor, and with it whatever still runs under it."""
        # It may be gone, or going already.
        with contextlib.suppress(OSError, HTTPException, xmlrpc.client.Fault):
            self._call("shutdown")
        deadline = time.monotonic() + seconds
        while self.is_alive() and time.monotonic() < deadline:
            time.sleep(0.05)
        self.kill()

    def kill(self) -> None:
        """At once: the supervisor first, so that it restarts nothing."""
        if self._process and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        _kill(survivors(self.home))


def survivors(home: Home) -> list[psutil.Process]:
    """Processes of this home's stack, known by the mark in their environment: pids alone may be somebody else's."""
    kin = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid not in kin and process.environ().get(MARK) == str(home.folder):
                found.append(process)
        except (psutil.Error, OSError):
            continue  # another account's, or gone meanwhile
    return found


def _name(process: psutil.Process) -> str:
    """What supervisor calls it."""
    try:
        return process.environ().get("SUPERVISOR_PROCESS_NAME", "")
    except (psutil.Error, OSError):
        return ""


def _is_supervisor(process: psutil.Process) -> bool:
    try:
        return "supervisor.supervisord" in process.cmdline()
    except psutil.Error:
        return False


def _kill(targets: list[psutil.Process]) -> None:
    for process in targets:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(targets, timeout=2)


def clear_leftovers(home: Home, *, last: Collection[str] = (), seconds: float = 6) -> int:
    """End what a killed launcher left running, those in `last` after the others. Returns how many there were."""
    supervisor = Supervisor(home)
    found = survivors(home)
    if supervisor.answers():
        # Shutting down alone would stop one after the other.
        with contextlib.suppress(OSError, HTTPException, xmlrpc.client.Fault, ProcessFailed):
            names = [name for name in supervisor.states() if name not in last]
            supervisor.stop(*names, seconds=seconds)
        supervisor.shut_down(seconds)
    remaining = survivors(home)
    _kill([process for process in remaining if _is_supervisor(process)])
    for final in (False, True):
        group = [process for process in remaining if (_name(process) in last) == final]
        for process in group:
            with contextlib.suppress(psutil.Error):
                # SIGINT is PostgreSQL's quick stop; SIGTERM would wait for its clients.
                process.send_signal(
                    signal.SIGINT if process.name() == "postgres" else signal.SIGTERM
                )
        _, stubborn = psutil.wait_procs(group, timeout=4)
        _kill(stubborn)
    supervisor.socket.unlink(missing_ok=True)
    return len(found)


def tail(log: Path, lines: int = 30) -> str:
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return f"(no {log})"
