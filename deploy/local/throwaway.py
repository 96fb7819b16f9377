"""Temporary PostgreSQL and Redis for one command: in a temporary folder, not synced to disk, removed afterwards."""

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from deploy.local.errors import AlreadyRunning
from deploy.local.home import Home
from deploy.local.postgresql import PostgreSQL
from deploy.local.servers import NAMES, Servers
from deploy.local.supervision import STOP_SIGNALS, end_processes

PREFIX = f"retort-servers-{os.getuid()}-"


def run(command: list[str]) -> int:
    """Run `command` with its own servers and return its exit code. All processes that it started are ended."""
    process: subprocess.Popen[bytes] | None = None

    def stop(received: int, _: object) -> None:
        if process is None:  # still starting the servers
            ignore_signals()
            raise KeyboardInterrupt
        if received != signal.SIGINT:  # which the terminal sends to the command as well
            process.send_signal(received)

    for number in STOP_SIGNALS:
        signal.signal(number, stop)
    remove_abandoned()
    home = Home(Path(tempfile.gettempdir()) / f"{PREFIX}{secrets.token_hex(4)}")
    servers = Servers(home, os.environ, throw_away=True, on_progress=lambda _: None)
    try:
        home.lock()  # while it is held, no other run removes this folder
        servers.prepare()
        servers.start()
        process = subprocess.Popen(command, env=servers.environment)
        code = process.wait()
    finally:
        ignore_signals()
        servers.stop()
        if servers.postgres:
            servers.postgres.remove_foreign_data()
        for folder in (home.sockets(), home.folder):
            shutil.rmtree(folder, ignore_errors=True)
    return code if code >= 0 else 128 - code  # a shell's exit code after a signal


def ignore_signals() -> None:
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def remove_abandoned() -> None:
    """End the processes and remove the folders of killed runs."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        home = Home(folder)
        try:
            if time.time() - folder.stat().st_mtime < 5:
                continue  # being created
            home.lock()
            end_processes(home, last=NAMES)
            PostgreSQL(home.postgres, port=0, password="", throw_away=True).remove_foreign_data()
            shutil.rmtree(folder, ignore_errors=True)
            home.unlock()
        except (AlreadyRunning, OSError):
            continue  # in use, or being removed by another run
