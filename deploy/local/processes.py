"""The processes of a local stack: their names, commands and environment. Starts nothing."""

import os
import sys

from deploy.local.ports import HOST
from deploy.local.postgresql import PostgreSQL
from deploy.local.redis import Redis
from deploy.local.supervision import Program

PYTHON = sys.executable
SERVERS = ("postgres", "redis")


def generation(workers: int) -> list[str]:
    return [f"generation-{number}" for number in range(1, workers + 1)]


def servers(postgres: PostgreSQL | None, redis: Redis | None) -> list[Program]:
    """Those of the two that are ours to run."""
    programs = []
    if postgres:
        programs.append(
            Program(
                "postgres",
                postgres.command(),
                user=postgres.account.user,
                stop_signal="INT",
                stop_seconds=3,
            )
        )
    if redis:
        programs.append(Program("redis", redis.command(), stop_seconds=2))
    return programs


def application(*, port: int, workers: int) -> list[Program]:
    # A few seconds to finish the batch at hand; what is cut off is rescued by its lease.
    programs = [
        Program(
            "web",
            [
                PYTHON, "-m", "uvicorn", "project.asgi:application", "--host", HOST, "--port", str(port),
                "--no-access-log", "--lifespan", "on", "--timeout-graceful-shutdown", "2",
            ],
        )
    ]  # fmt: skip
    # Several workers that each take every core are slower together than one.
    threads = (
        {"TORCH_THREADS": str(max(1, (os.cpu_count() or 1) // workers))} if workers > 1 else {}
    )
    programs += [
        Program(name, _worker(name, "generation", "solo", 1), {"WORKER_NAME": name, **threads})
        for name in generation(workers)
    ]
    programs += [
        Program("encode", _worker("encode", "encode", "solo", 1), {"WORKER_NAME": "encode"}),
        Program(
            "distillation",
            _worker("distillation", "distillation", "solo", 1),
            {"WORKER_NAME": "distillation"},
        ),
        # By itself: a receiver of webhooks that does not answer must not hold up the sweeps of `light`. Two threads:
        # one sends, the other hears that there is more.
        Program(
            "webhooks", _worker("webhooks", "webhooks", "threads", 2), {"WORKER_NAME": "webhooks"}
        ),
        Program("light", _worker("light", "light", "threads", 2), {"WORKER_NAME": "light"}),
        Program("beat", [*_celery("beat"), "--pidfile="]),
    ]
    return programs


def _celery(command: str) -> list[str]:
    return [PYTHON, "-m", "celery", "-A", "project", command, "--loglevel", "INFO"]


def _worker(name: str, queue: str, pool: str, concurrency: int) -> list[str]:
    return [
        *_celery("worker"), "-Q", queue, "-P", pool, "--concurrency", str(concurrency), "-n", f"{name}@%h",
        "--without-gossip", "--without-mingle", "--without-heartbeat",
    ]  # fmt: skip
