"""Celery consumer, for the setting worker_consumer, that waits until Redis accepts writes.

A server that refuses writes (READONLY during a failover, MISCONF on a full disk, OOM, NOREPLICAS, a changed password)
refuses the first command after each connection, and Celery would reconnect several times a second.
"""

import time
from typing import Any

import structlog
from celery.worker.consumer import Consumer
from celery.worker.state import maybe_shutdown

from generation.infra import redis_client

log = structlog.get_logger(__name__)

POLL_SECONDS = 1.0


# kombu's exceptions for an item of a queue that is not a Celery message. The item is already removed.
NO_MESSAGE = (ValueError, TypeError, LookupError, AttributeError)


class WaitingConsumer(Consumer):
    """Consumer that connects when Redis accepts writes. The process keeps running, with its loaded releases."""

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
                time.sleep(POLL_SECONDS)
            log.info("redis_recovered")
        return super().connect()
