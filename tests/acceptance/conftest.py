"""One stack until the last acceptance test: two workers, short leases, and a Redis server that the tests may kill."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from deploy.local import ports
from deploy.local.redis import Redis
from tests.acceptance.stack import Stack, wait_for
from tests.tiny import make_tiny_release

REGISTER = """
from generation.releases import lifecycle
for folder in {folders}:
    lifecycle.register(folder)
"""


class RedisServer:
    """A real server process on a port of its own."""

    def __init__(self, folder: Path) -> None:
        self.server = Redis(folder, port=ports.pick(), password="acceptance")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.server.prepare()
        self.process = subprocess.Popen(self.server.command(), stdout=subprocess.DEVNULL)
        wait_for(self.server.is_ready, "Redis answers")

    def kill(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.server.url)


@pytest.fixture(scope="package")
def stack_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stack")


@pytest.fixture(scope="package")
def redis_server(stack_home: Path) -> Iterator[RedisServer]:
    server = RedisServer(stack_home / "redis-of-the-tests")
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="package")
def stack(stack_home: Path, redis_server: RedisServer) -> Iterator[Stack]:
    """A running stack with the starter and three toy students: quick, other, and slow (some seconds a job)."""
    env = {
        "REDIS_URL": redis_server.server.url,
        "RUNTIME": "torch",  # other stacks convert the starter's student
        "LEASE_SECONDS": "4",
        "SWEEP_SECONDS": "1",
        "WORKER_STALE_SECONDS": "8",
        "WEBHOOK_PRIVATE_HOSTS": "true",  # the receivers of the tests are on this machine
    }
    with Stack(stack_home / "home", workers=2, env=env) as stack:
        students = {"quick": 4, "other": 4, "slow": 150}
        for name, steps in students.items():
            make_tiny_release(stack_home / name, name=name, kind="student", steps=steps)
        # In one process without torch, which `manage.py release register` would load.
        folders = [str(stack_home / name) for name in students]
        stack.manage("shell", "-c", REGISTER.format(folders=folders))
        yield stack
        assert stack.stop() == 0


@pytest.fixture(scope="package")
def variants(stack: Stack) -> list[str]:
    """Slugs of prompt variants, once every release has their embeddings; the starter's student brings its own."""
    fewest = """
        SELECT min(encoded) AS n FROM (
            SELECT r.encoder_fingerprint, count(e.id) AS encoded
              FROM (SELECT DISTINCT encoder_fingerprint FROM generation_release) r
              LEFT JOIN generation_embedding e
                ON e.encoder_fingerprint = r.encoder_fingerprint AND e.error = ''
             GROUP BY r.encoder_fingerprint) counts"""
    wait_for(lambda: stack.query(fewest)[0]["n"] >= 256, "encoded")
    return [
        row["slug"]
        for row in stack.http.get("/v1/variants", params={"limit": 50}).json()["results"]
    ]
