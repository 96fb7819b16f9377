"""The project's processes in a local stack: names, commands and environment."""

import os
import sys

from deploy.local.ports import HOST
from deploy.local.supervision import Program

PYTHON = sys.executable


def generation(workers: int) -> list[str]:
    return [f"generation-{number}" for number in range(1, workers + 1)]


def application(*, port: int, workers: int) -> list[Program]:
    web = [
        PYTHON, "-m", "uvicorn", "project.asgi:application", "--host", HOST, "--port", str(port),
        "--http", "project.connections:Connection", "--ws", "none",
        "--no-access-log", "--lifespan", "on", "--timeout-graceful-shutdown", "2",
    ]  # fmt: skip
    # Several workers that each use all cores are slower together than one.
    cores = {"TORCH_THREADS": str(max(1, (os.cpu_count() or 1) // workers))} if workers > 1 else {}
    return [
        Program("web", web),
        *(_worker(name, "generation", environment=cores) for name in generation(workers)),
        _worker("encode", "encode"),
        _worker("distillation", "distillation"),
        # A separate process: an unresponsive webhook receiver must not delay the sweeps of `light`. One thread sends,
        # the other receives new messages.
        _worker("webhooks", "webhooks", threads=2),
        _worker("light", "light", threads=2),
        Program("beat", [*_celery("beat"), "--pidfile="]),
    ]


def _celery(command: str) -> list[str]:
    return [PYTHON, "-m", "celery", "--quiet", "-A", "project", command, "--loglevel", "INFO"]


def _worker(
    name: str, queue: str, *, threads: int = 1, environment: dict[str, str] | None = None
) -> Program:
    command = [
        *_celery("worker"), "-Q", queue, "-P", "threads" if threads > 1 else "solo",
        "--concurrency", str(threads), "-n", f"{name}@%h",
        "--without-gossip", "--without-mingle", "--without-heartbeat",
    ]  # fmt: skip
    return Program(name, command, {"WORKER_NAME": name, **(environment or {})})
