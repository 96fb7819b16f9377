"""Faults by people: misbehaving clients, and a person who activates releases."""

import random
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpx

from tests.acceptance.stack import ROOT, wait_for
from tests.chaos.faults.fault import Fault
from tests.chaos.faults.processes import GENERATION, Frozen
from tests.chaos.servers import Repeating
from tests.chaos.stack import Site

OTHER = "other-student"


@dataclass
class Activation(Fault):
    """A person activates another student under load, and the first one again at the end."""

    _before: str = ""

    def begin(self, site: Site) -> None:
        self._before = site.active["student"]
        folder = site.folder / OTHER
        if not folder.exists():
            words = f"{str(folder)!r}, name={OTHER!r}, kind='student'"
            make = f"from tests.tiny import make_tiny_release as make; make({words})"
            command = [sys.executable, "-c", make]
            subprocess.run(command, cwd=ROOT, env=site.stack.manage_env(), check=True)
            site.stack.manage("release", "register", str(folder))
        wait_for(lambda: self._is_encoded(site), f"the catalogue is encoded for {OTHER}")
        self._activate(site, OTHER)

    def end(self, site: Site) -> None:
        self._activate(site, self._before)

    def _is_encoded(self, site: Site) -> bool:
        (row,) = site.postgres.query(
            "SELECT count(*) FROM generation_embedding e JOIN generation_release r"
            " ON r.encoder_fingerprint = e.encoder_fingerprint WHERE r.name = %s AND e.error = ''",
            OTHER,
        )
        return row[0] >= len(site.variants)

    def _activate(self, site: Site, name: str) -> None:
        """Run the command until it succeeds; what is active is undecided until then."""
        site.active.pop("student", None)

        def is_done() -> bool:
            with suppress(AssertionError):
                site.stack.manage("release", "activate", name)
                return True
            return False

        wait_for(is_done, f"{name} is activated", seconds=600)
        site.active["student"] = name


@dataclass
class Flood(Fault):
    """Many identical jobs of one client queue up while the workers are frozen."""

    number: int = 400
    _frozen: Frozen = field(default_factory=lambda: Frozen("", "", processes=GENERATION))

    def begin(self, site: Site) -> None:
        self._frozen.begin(site)
        body = {"variant": site.variants[0], "seed": 4_000_000_000}
        headers = {"Authorization": f"Bearer {site.accounts.keys[1]}"}

        def submit(_: int) -> None:
            with suppress(httpx.HTTPError):
                site.stack.http.post("/v1/jobs", json=body, headers=headers)

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(submit, range(self.number)))

    def end(self, site: Site) -> None:
        self._frozen.end(site)


@dataclass
class MisbehavingClients(Fault):
    """Many misbehaving connections at once, and further ones until the end. way: a method below."""

    way: str = ""
    number: int = 12
    _sockets: list[socket.socket] = field(default_factory=list, repr=False)
    _repeating: Repeating | None = field(default=None, repr=False)

    def begin(self, site: Site) -> None:
        address = urlsplit(site.stack.run["base_url"])
        act = getattr(self, self.way)

        def visit() -> None:
            connection = socket.create_connection((address.hostname, address.port), 5)
            self._sockets.append(connection)
            act(connection, address.netloc)

        for _ in range(self.number):
            with suppress(OSError):
                visit()
        self._repeating = Repeating(visit, 0.3)

    def end(self, site: Site) -> None:
        assert self._repeating
        self._repeating.stop()
        for connection in self._sockets:
            connection.close()
        self._sockets.clear()

    def half_bodies(self, connection: socket.socket, host: str) -> None:
        head = (
            f"POST /login HTTP/1.1\r\nHost: {host}\r\nCookie: csrftoken={'a' * 32}\r\n"
            "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 2000000\r\n\r\n"
        )
        connection.sendall(head.encode() + b"a=" + b"b" * 1_100_000)

    def pipelined_readers(self, connection: socket.socket, host: str) -> None:
        path = "/static/drf_spectacular_sidecar/swagger-ui-dist/swagger-ui-bundle.js"
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode() * 5)
        if len(self._sockets) % 2:
            connection.close()

    def resets(self, connection: socket.socket, host: str) -> None:
        linger = (1).to_bytes(4, "little") + (0).to_bytes(4, "little")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        connection.sendall(
            f"GET /v1/models HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()[: random.randint(1, 60)]
        )
        connection.close()

    def idle(self, connection: socket.socket, host: str) -> None:
        pass
