"""Consumer of a Celery worker that waits for Redis to take writes, named by the setting worker_consumer.

A server that answers but refuses writes (READONLY while it fails over, MISCONF on a full disk, OOM, NOREPLICAS, another
password) would refuse the first command after each connection. Celery connects again at once, several times a second.
"""

import time
from typing import Any

import structlog
from celery.worker.consumer import Consumer
from celery.worker.state import maybe_shutdown

from generation.infra import redis_client

log = structlog.get_logger(__name__)

LOOK_SECONDS = 1.0


# What kombu raises for an item of a queue that is no message of Celery's. It was taken off the queue.
NO_MESSAGE = (ValueError, TypeError, LookupError, AttributeError)


class WaitingConsumer(Consumer):
    """Connects when Redis takes writes. The process, and what it has loaded, stays."""

    connection_errors: tuple[type[BaseException], ...]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.connection_errors = (*self.connection_errors, *NO_MESSAGE)

    def connect(self) -> Any:
        refusal = redis_client.refusal()
        if refusal is not None:
            log.warning("redis_unreachable", error=refusal)
            while redis_client.refusal() is not None:
                maybe_shutdown()  # raises WorkerShutdown after a signal
                time.sleep(LOOK_SECONDS)
            log.info("redis_serves_again")
        return super().connect()
