"""Celery bootstep of a worker that consumes one of our queues."""

from typing import Any

from celery.bootsteps import StartStopStep

from generation.infra import heartbeat


class QueueStep(StartStopStep):
    """Prepares a worker of `queue` before it receives messages, and ends its heartbeat when it stops.

    An error in `begin` ends the process with exit code 1, and the supervisor restarts it.
    """

    queue = ""
    slots = 1  # number of tasks that the worker runs at once

    def begin(self) -> None:
        """Load what the queue needs, then start the heartbeat."""
        raise NotImplementedError

    def end(self) -> None:
        """Finish work in progress."""

    def include_if(self, parent: Any) -> bool:
        return self.queue in parent.app.amqp.queues.consume_from

    def start(self, parent: Any) -> None:
        self.slots = parent.pool.limit
        self.begin()

    def stop(self, parent: Any) -> None:
        self.end()
        heartbeat.end()

    terminate = stop
