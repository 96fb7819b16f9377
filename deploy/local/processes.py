"""The project's processes in a local stack: their names, commands and environment."""

import os
import sys

from deploy.local.ports import HOST
from deploy.local.supervision import Program

PYTHON = sys.executable


def generation(workers: int) -> list[str]:
    return [f"generation-{number}" for number in range(1, workers + 1)]


def application(*, port: int, workers: int) -> list[Program]:
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
        # A process of its own: a webhook receiver that does not answer must not delay the sweeps of `light`. One thread
        # sends, the other takes new messages.
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
