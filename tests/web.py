"""The web process as deployed: uvicorn in a process, on the database and Redis of the tests."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import httpx
from django.conf import settings
from django.db import connection

ROOT = Path(__file__).resolve().parents[1]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def database_url() -> str:
    """Return the URL of this process's test database. Several hosts and ports are separated by commas."""
    facts = connection.settings_dict
    password = f":{facts['PASSWORD']}" if facts["PASSWORD"] else ""
    hosts = zip(facts["HOST"].split(","), str(facts["PORT"]).split(","), strict=True)
    places = ",".join(f"{host}:{port}" for host, port in hosts)
    return f"postgres://{facts['USER']}{password}@{places}/{facts['NAME']}"


def eventually(condition: Callable[[], bool], *, seconds: float = 60) -> None:
    """Wait until the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the state was not reached"
        time.sleep(0.05)


class Web:
    """A running web process. Send requests through `http`; end it with `stop`."""

    def __init__(
        self,
        folder: Path,
        *,
        redis_url: str = "",
        connection: str = "project.connections:Connection",
        **environment: str,
    ) -> None:
        """connection: class of uvicorn's connections. environment: added to that of the tests, or replacing it."""
        self.connection = connection
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / f"web-{self.port}.log"
        with self.log.open("wb") as log:
            self.process = self._start(folder, redis_url, environment, log)
        self.http = httpx.Client(base_url=self.url, timeout=300)
        self._wait()

    def _start(
        self, folder: Path, redis_url: str, environment: dict[str, str], log: IO[bytes]
    ) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "uvicorn", "project.asgi:application"),
                *("--http", self.connection, "--ws", "none", "--port", str(self.port)),
            ],
            cwd=ROOT,
            env={
                **os.environ,
                "DATABASE_URL": database_url(),
                "REDIS_URL": redis_url or settings.REDIS_URL,
                "DATA_DIR": str(folder),
                "LOG_FORMAT": "json",
                **environment,
            },
            stdout=subprocess.DEVNULL,
            stderr=log,
        )

    def _wait(self) -> None:
        deadline = time.monotonic() + 300
        while True:
            try:
                self.http.get("/health/live").raise_for_status()
                return
            except httpx.TransportError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    self.stop()
                    raise AssertionError(
                        f"the web process did not start: {self.log.read_text()[-3000:]}"
                    ) from None
                time.sleep(0.05)

    def stop(self, number: int = signal.SIGTERM) -> float:
        """Stop the process and return the seconds that it took."""
        started = time.monotonic()
        self.http.close()
        self.process.send_signal(number)
        self.process.wait(timeout=300)
        return time.monotonic() - started
