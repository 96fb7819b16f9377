"""Faults: what begins and ends each. A fault leaves the stack as it found it, but for what broke."""

import itertools
import os
import random
import resource
import signal
import socket
import subprocess
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import psutil
import psycopg2
import redis

from deploy.local import ports
from tests.acceptance.stack import wait_for
from tests.chaos.device import felt
from tests.chaos.servers import CUT, PGBOUNCER, Repeating
from tests.chaos.stack import Site

GENERATION = ("generation-1", "generation-2", "generation-3")


@dataclass
class Fault:
    """name: as in the report. group: two of one group are no pair. seconds: that it must last to show itself.

    The base class is no fault: the round that others are compared with.
    """

    name: str
    group: str
    seconds: float = 0.0

    def begin(self, site: Site) -> None:
        """Put the server, process or device into its state."""

    def end(self, site: Site) -> None:
        """Take the cause away; return when the server or the process is there again."""

    def was_felt(self, site: Site) -> bool:
        """Return whether the fault did anything, where that is not certain."""
        return True


# --- processes ------------------------------------------------------------------------------------
@dataclass
class Killed(Fault):
    """A signal, again and again: supervisor starts the process anew each time."""

    processes: tuple[str, ...] = ()
    again_seconds: float = 5.0
    number: int = signal.SIGKILL
    _repeating: Repeating | None = field(default=None, repr=False)

    def begin(self, site: Site) -> None:
        self._kill(site)
        self._repeating = Repeating(lambda: self._kill(site), self.again_seconds)

    def _kill(self, site: Site) -> None:
        for name in self.processes:
            with suppress(ProcessLookupError):
                os.kill(site.stack.pid(name), self.number)

    def end(self, site: Site) -> None:
        assert self._repeating
        self._repeating.stop()


@dataclass
class Frozen(Fault):
    """SIGSTOP for longer than a lease."""

    processes: tuple[str, ...] = ()
    _pids: list[int] = field(default_factory=list, repr=False)

    def begin(self, site: Site) -> None:
        self._pids = [site.stack.pid(name) for name in self.processes]
        for pid in self._pids:
            os.kill(pid, signal.SIGSTOP)

    def end(self, site: Site) -> None:
        for pid in self._pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


@dataclass
class SecondBeat(Fault):
    """Two beats, of which the first is frozen and thawed while the second runs."""

    _process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)
    _pid: int = 0

    def begin(self, site: Site) -> None:
        self._process = site.beat()
        self._pid = site.stack.pid("beat")
        os.kill(self._pid, signal.SIGSTOP)

    def end(self, site: Site) -> None:
        assert self._process
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGCONT)
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(30)
        self._process.kill()
        self._process.wait()

    def was_felt(self, site: Site) -> bool:
        return "beat_begins" in site.second_beat.read_text()


# --- Redis ----------------------------------------------------------------------------------------
@dataclass
class ServerDown(Fault):
    """A server that is killed, and started at the end."""

    server: str = "redis"

    def begin(self, site: Site) -> None:
        getattr(site, self.server).end()

    def end(self, site: Site) -> None:
        getattr(site, self.server).start()


@dataclass
class ServerFrozen(Fault):
    """A server that takes connections and answers nothing."""

    server: str = "redis"

    def begin(self, site: Site) -> None:
        getattr(site, self.server).freeze()

    def end(self, site: Site) -> None:
        getattr(site, self.server).thaw()


@dataclass
class RedisSet(Fault):
    """A Redis that answers and refuses: commands that begin and end the state."""

    begins: tuple[tuple[Any, ...], ...] = ()
    ends: tuple[tuple[Any, ...], ...] = ()

    def begin(self, site: Site) -> None:
        self._do(site, self.begins)

    def end(self, site: Site) -> None:
        self._do(site, self.ends)

    def _do(self, site: Site, commands: tuple[tuple[Any, ...], ...]) -> None:
        with site.redis.client() as client:
            for command in commands:
                client.execute_command(*command)


@dataclass
class RedisMisconf(Fault):
    """A Redis that cannot write its snapshot: a folder has the snapshot's name."""

    def begin(self, site: Site) -> None:
        folder = site.home.redis / "dump.rdb"
        folder.unlink(missing_ok=True)
        (folder / "in-the-way").mkdir(parents=True)
        with site.redis.client() as client:
            client.config_set("save", "3600 1")
            with suppress(Exception):
                client.bgsave()
            wait_for(
                lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err",
                "the snapshot failed",
                seconds=60,
            )

    def end(self, site: Site) -> None:
        folder = site.home.redis / "dump.rdb"
        (folder / "in-the-way").rmdir()
        folder.rmdir()
        with site.redis.client() as client:
            client.config_set("save", "")


@dataclass
class RedisPassword(Fault):
    """A password that was changed under living clients, whose connections are closed."""

    def begin(self, site: Site) -> None:
        with site.redis.client() as client:
            client.config_set("requirepass", "another")
            for kind in ("normal", "pubsub"):
                client.client_kill_filter(_type=kind, skipme=True)

    def end(self, site: Site) -> None:
        server = site.redis.server
        with redis.Redis(ports.HOST, server.port, password="another") as client:
            client.config_set("requirepass", server.password)


@dataclass
class RedisFlushed(Fault):
    """FLUSHALL, again and again."""

    _repeating: Repeating | None = field(default=None, repr=False)

    def begin(self, site: Site) -> None:
        def flush() -> None:
            with site.redis.client() as client:
                client.flushall()

        flush()
        self._repeating = Repeating(flush, 0.5)

    def end(self, site: Site) -> None:
        assert self._repeating
        self._repeating.stop()


NO_MESSAGES = (b"no message", b"{}", b"\xff")


@dataclass
class Garbage(Fault):
    """Messages that nobody of ours sent: false ends of waiting jobs, and no Celery messages on Celery's queues."""

    _repeating: Repeating | None = field(default=None, repr=False)

    def begin(self, site: Site) -> None:
        with site.redis.client() as client:
            for queue in ("generation", "light", "webhooks", "encode"):
                client.lpush(queue, *NO_MESSAGES)

        def send() -> None:
            jobs = site.postgres.query(
                "SELECT id FROM generation_job WHERE finished_at IS NULL ORDER BY created_at DESC LIMIT 20"
            )
            with site.redis.client() as client:
                for (job,) in jobs:
                    for word in ("succeeded", "failed", "nonsense", b"\xff\xfe", '{"version": 99}'):
                        client.publish(f"retort:job:{job}", word)

        self._repeating = Repeating(send, 0.5)

    def end(self, site: Site) -> None:
        assert self._repeating
        self._repeating.stop()


# --- PostgreSQL -----------------------------------------------------------------------------------
@dataclass
class SessionsCut(Fault):
    """Every session is ended several times a second."""

    _repeating: Repeating | None = field(default=None, repr=False)

    def begin(self, site: Site) -> None:
        self._repeating = Repeating(site.postgres.cut, 0.3)

    def end(self, site: Site) -> None:
        assert self._repeating
        self._repeating.stop()


@dataclass
class PostgresReadOnly(Fault):
    """What a client sees of a server that was demoted."""

    def begin(self, site: Site) -> None:
        site.postgres.set("default_transaction_read_only", "on")
        site.postgres.cut()

    def end(self, site: Site) -> None:
        site.postgres.set("default_transaction_read_only", None)
        site.postgres.cut()


@dataclass
class ConnectionsUsedUp(Fault):
    """Strangers hold every connection of the server; those of the stack are cut, and no new one is to be had."""

    _held: list[Any] = field(default_factory=list, repr=False)
    _repeating: Repeating | None = field(default=None, repr=False)

    def begin(self, site: Site) -> None:
        first = site.postgres.connect()
        self._held.append(first)

        def take() -> None:
            with first.cursor() as cursor:
                cursor.execute(CUT)
            while True:  # until the server refuses
                self._held.append(site.postgres.connect())

        with suppress(psycopg2.Error):
            take()
        self._repeating = Repeating(take, 0.2)

    def end(self, site: Site) -> None:
        assert self._repeating
        self._repeating.stop()
        for connection in self._held:
            connection.close()
        self._held.clear()


@dataclass
class PostgresRestarted(Fault):
    """An orderly, quick stop, and a start at the end."""

    def begin(self, site: Site) -> None:
        site.postgres.end(signal.SIGINT)

    def end(self, site: Site) -> None:
        site.postgres.start()


# --- storage --------------------------------------------------------------------------------------
@dataclass
class StorageGone(Fault):
    """An unmounted disk: neither reads nor writes of images work."""

    def begin(self, site: Site) -> None:
        images = site.media / "images"
        images.rename(site.media / "images-elsewhere")
        images.write_text("no folder")

    def end(self, site: Site) -> None:
        images = site.media / "images"
        images.unlink()
        (site.media / "images-elsewhere").rename(images)


@dataclass
class StorageFull(Fault):
    """A disk that takes a kilobyte of each file, for the workers that run."""

    _pids: list[int] = field(default_factory=list, repr=False)

    def begin(self, site: Site) -> None:
        self._pids = [site.stack.pid(name) for name in (*GENERATION, "web")]
        self._limit(1000)

    def end(self, site: Site) -> None:
        self._limit(resource.RLIM_INFINITY)

    def _limit(self, most: int) -> None:
        for pid in self._pids:
            with suppress(psutil.Error):
                process = psutil.Process(pid)
                _, hard = process.rlimit(psutil.RLIMIT_FSIZE)
                process.rlimit(psutil.RLIMIT_FSIZE, (most, hard))


# --- device ---------------------------------------------------------------------------------------
@dataclass
class BrokenDevice(Fault):
    """word: of tests.chaos.device. workers: which obey it."""

    word: str = ""
    workers: tuple[str, ...] = GENERATION[:1]

    def begin(self, site: Site) -> None:
        for worker in self.workers:
            felt(site.devices / worker).unlink(missing_ok=True)
            (site.devices / worker).write_text(self.word)

    def end(self, site: Site) -> None:
        for worker in self.workers:
            (site.devices / worker).unlink(missing_ok=True)

    def was_felt(self, site: Site) -> bool:
        return all(felt(site.devices / worker).exists() for worker in self.workers)


# --- clients --------------------------------------------------------------------------------------
@dataclass
class RudeClients(Fault):
    """Many of one kind at once, each again as soon as its connection ends. way: a method below."""

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


READONLY = (("REPLICAOF", ports.HOST, "1"),)  # a primary that nobody answers for
WRITABLE = (("REPLICAOF", "NO", "ONE"),)


def config(name: str, value: int) -> tuple[tuple[Any, ...], ...]:
    return (("CONFIG", "SET", name, value),)


def everything() -> list[Fault]:
    """Return all faults, in the order of a run."""
    return [
        Fault("none", "none"),
        Killed("a generation worker killed", "worker", processes=GENERATION[:1]),
        BrokenDevice("a generation worker killed at its commits", "worker", 30, word="die"),
        Killed("all generation workers killed", "worker", processes=GENERATION, again_seconds=60),
        Frozen("a generation worker frozen", "worker", 12, processes=GENERATION[:1]),
        Killed(
            "web and a generation worker stopped in order", "worker",
            processes=("web", GENERATION[0]), again_seconds=60, number=signal.SIGTERM,
        ),
        Killed("web killed", "web", processes=("web",)),
        Frozen("web frozen", "web", processes=("web",)),
        Killed("light killed", "light", processes=("light",)),
        Killed("webhooks killed", "webhooks", processes=("webhooks",)),
        Killed("beat killed", "beat", processes=("beat",)),
        Killed("encode killed", "encode", processes=("encode",)),
        SecondBeat("two beats", "beat", 15),
        ServerDown("Redis killed", "redis"),
        ServerFrozen("Redis frozen", "redis", 12),
        RedisSet("Redis READONLY", "redis", 12, begins=READONLY, ends=WRITABLE),
        RedisSet("Redis OOM", "redis", begins=config("maxmemory", 1), ends=config("maxmemory", 0)),
        RedisSet(
            "Redis NOREPLICAS", "redis",
            begins=config("min-replicas-to-write", 1), ends=config("min-replicas-to-write", 0),
        ),
        RedisMisconf("Redis MISCONF", "redis"),
        RedisPassword("Redis WRONGPASS", "redis"),
        RedisFlushed("Redis flushed", "redis"),
        Garbage("garbage in Redis", "redis"),
        SessionsCut("PostgreSQL sessions cut", "postgres"),
        PostgresReadOnly("PostgreSQL read-only", "postgres"),
        ServerFrozen("PostgreSQL frozen", "postgres", server="postgres"),
        ConnectionsUsedUp("PostgreSQL without free connections", "postgres"),
        PostgresRestarted("PostgreSQL restarted", "postgres"),
        ServerDown("PostgreSQL killed", "postgres", server="postgres"),
        ServerDown("PgBouncer killed", "postgres", server="pgbouncer"),
        StorageGone("storage gone", "storage"),
        StorageFull("storage full", "storage"),
        BrokenDevice("a device fails once", "device", word="raise-once"),
        BrokenDevice("a device always fails", "device", 15, word="raise"),
        BrokenDevice("a device hangs", "device", 60, word="hang"),
        BrokenDevice("a device is slow", "device", word="slow"),
        RudeClients("half-sent bodies", "clients", 15, way="half_bodies"),
        RudeClients("pipelined requests, nothing read", "clients", 15, way="pipelined_readers"),
        RudeClients("connections reset", "clients", 15, way="resets"),
        RudeClients("idle connections", "clients", 15, way="idle", number=300),
    ]  # fmt: skip


# A fault of each class, and the pairs that meet in practice.
QUICK = (
    "none", "a generation worker killed at its commits", "web killed", "two beats",
    "Redis killed", "Redis READONLY", "Redis flushed",
    "PostgreSQL sessions cut", "PostgreSQL read-only", "PostgreSQL restarted", "storage full",
    "a device always fails", "a device hangs", "half-sent bodies", "pipelined requests, nothing read",
)  # fmt: skip
QUICK_PAIRS = (
    ("a generation worker killed", "PostgreSQL sessions cut"),
    ("Redis READONLY", "storage full"),
)


def pairs(faults: list[Fault], number: int, seed: int) -> list[tuple[Fault, Fault]]:
    """Return so many pairs of different groups; the same for the same seed."""
    possible = [
        (first, second)
        for first, second in itertools.combinations(faults, 2)
        if first.group != second.group and "none" not in (first.group, second.group)
    ]
    return random.Random(seed).sample(possible, min(number, len(possible)))


def usable(fault: Fault) -> bool:
    """Whether this machine has the program that the fault is of."""
    return PGBOUNCER is not None or getattr(fault, "server", "") != "pgbouncer"
