"""The stack under test: web, beat, three generation workers and the others, with PgBouncer and separate servers."""

import json
import subprocess
import sys
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from deploy.local.home import Home
from deploy.local.supervision import kill_processes
from tests.acceptance.stack import ROOT, Stack, wait_for
from tests.chaos import clock
from tests.chaos.device import FOLDER
from tests.chaos.disk import SmallDisk, may_mount
from tests.chaos.receiver import CountingReceiver
from tests.chaos.servers import PGBOUNCER, PgBouncer, PostgresServer, RedisServer

WORKERS = 3
# On another host than web, encode and the other generation workers.
OTHER_HOST = ("generation-2", "light", "webhooks", "beat")
DISK_MB = 4000  # for PostgreSQL; only the used space takes memory
LEASE_SECONDS = 5
OWNERS = 4
QUOTA = 30  # images a day of the key that reaches its limit
SETTINGS = {
    "DJANGO_SETTINGS_MODULE": "tests.chaos.settings",
    "LEASE_SECONDS": str(LEASE_SECONDS),
    "SWEEP_SECONDS": "1",
    "WORKER_STALE_SECONDS": "8",
    "STALL_SECONDS": "10",
    "DEAF_SECONDS": "10",
    "WEBHOOK_PRIVATE_HOSTS": "true",  # the receiver is on this machine
    "LOG_FORMAT": "json",
    "LOG_LEVEL": "INFO",
}
# Prints {"keys": [...], "limited": key}. It may be run again on the same database.
ACCOUNTS = f"""
import json
from django.contrib.auth import get_user_model
from generation.models import APIKey, OwnerLimits
users = get_user_model().objects
def issue(name, **limits):
    owner, _ = users.get_or_create(username=name)
    return APIKey.objects.issue(owner, "chaos", list(APIKey.Scope.values), limits=limits)[1]
def limit(name, images):
    OwnerLimits.objects.get_or_create(owner=users.get(username=name), defaults={{"images_per_day": images}})
keys = [issue(f"owner-{{n}}") for n in range({OWNERS - 1})]
keys.append(issue("metered", images_per_day=1_000_000, device_seconds_per_day=1_000_000))
limited = issue("limited", images_per_day={QUOTA})
limit("metered", 1_000_000)
limit("limited", {QUOTA})
print(json.dumps({{"keys": keys, "limited": limited}}))
"""


@dataclass(frozen=True)
class Accounts:
    """Plain keys: one of each owner, and one that reaches its quota."""

    keys: list[str]
    limited: str


class Site:
    """The stack, its servers, devices and receiver, as a context manager. folder: holds everything; an earlier site's
    processes there are ended and its files reused.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = Home(folder / "servers")
        self.home.create()
        kill_processes(self.home)
        kill_processes(Home(folder / "home"))
        self.second_beat = folder / "second-beat.log"
        self.devices = folder / "devices"
        self.devices.mkdir(exist_ok=True)
        self.clocks = folder / "clocks"
        self.disk: SmallDisk | None = None
        self._mounted = ExitStack()
        if may_mount():
            disk = SmallDisk(self.home.folder / "disk", megabytes=DISK_MB)
            self.disk = self._mounted.enter_context(disk)
        self.databases = self.disk.folder if self.disk else self.home.folder
        self.postgres = PostgresServer(self.home, self.databases / "postgres")
        self.redis = RedisServer(self.home)
        self.pgbouncer = PgBouncer(self.home, self.postgres) if PGBOUNCER else None
        self.receiver = CountingReceiver()

    def __enter__(self) -> "Site":
        try:
            self._start()
        except BaseException:
            self._stop_servers()
            raise
        return self

    def _start(self) -> None:
        for file in self.devices.iterdir():
            file.unlink()
        servers = [self.postgres, self.redis, *([self.pgbouncer] if self.pgbouncer else [])]
        for server in servers:
            server.prepare()
            server.start()
        self.receiver.__enter__()
        env = {
            **SETTINGS,
            "DATABASE_URL": self.pgbouncer.url if self.pgbouncer else self.postgres.url,
            "REDIS_URL": self.redis.url,
            FOLDER: str(self.devices),
            **self._clocks(),
        }
        self.stack = Stack(self.folder / "home", workers=WORKERS, env=env)
        self.media = Path(self.stack.run["data_dir"]) / "media"
        self.accounts = Accounts(
            **json.loads(self.stack.manage("shell", "-c", ACCOUNTS).splitlines()[-1])
        )
        wait_for(lambda: len(self.stack.workers_alive()) == WORKERS, "all workers are ready")
        answer = self.stack.http.get("/v1/variants", params={"limit": 100}).raise_for_status()
        self.variants = [row["slug"] for row in answer.json()["results"]]
        # By kind, the release that was activated last.
        self.active = dict(
            self.postgres.query("SELECT kind, name FROM generation_release WHERE status = 'active'")
        )

    def _clocks(self) -> dict[str, str]:
        """Return the environment of processes whose clocks can be shifted."""
        if not clock.COMPILER:
            return {}
        environment = clock.prepare(self.clocks)
        for process in ("web", *OTHER_HOST):
            clock.shift(self.clocks, process, timedelta())
        return environment

    def __exit__(self, *_: object) -> None:
        try:
            with suppress(
                subprocess.TimeoutExpired
            ):  # a fault may have frozen it; it is killed below
                self.stack.stop()
        finally:
            self.receiver.__exit__()
            self._stop_servers()

    def _stop_servers(self) -> None:
        for server in (self.pgbouncer, self.redis, self.postgres):
            if server:
                server.end()
        kill_processes(self.home)
        self._mounted.close()

    def beat(self) -> "subprocess.Popen[bytes]":
        """Start one more beat beside the stack's own; return when it stands by."""
        with self.second_beat.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", "project", "beat", "--pidfile="],
                cwd=ROOT, env=self.stack.manage_env(), stdout=log, stderr=log,
            )  # fmt: skip
        wait_for(lambda: "beat_standby" in self.second_beat.read_text(), "the second beat is ready")
        return process
