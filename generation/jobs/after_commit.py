"""After-commit effects of a transaction: log lines, notifications, metrics. A rollback discards them."""

from collections import Counter
from collections.abc import Callable
from functools import partial
from uuid import UUID

import structlog
from django.db import transaction

from generation.infra import metrics, notifications

log = structlog.get_logger("generation.jobs")

Defer = Callable[[Callable[[], None]], object]


class Report:
    """Effects of the current transaction. Create it inside the transaction and add to it.

    defer: called after the commit with the function that sends the effects, to call that soon; default: at once.
    """

    def __init__(self, defer: Defer | None = None) -> None:
        self._moved: list[tuple[UUID, str]] = []
        self._attempts: dict[UUID, int] = {}
        self._lines: list[tuple[str, dict[str, object]]] = []
        self._amounts: Counter[str] = Counter()
        self._has_work = False
        self._has_deliveries = False
        transaction.on_commit(partial(defer, self._send) if defer else self._send, robust=True)

    def moved(self, job_id: UUID, status: str, event: str, **facts: object) -> None:
        """Add a change of status. facts: for the log; `attempt` is also sent to clients that watch the job."""
        self._moved.append((job_id, status))
        if status in ("queued", "running") and isinstance(attempt := facts.get("attempt"), int):
            self._attempts[job_id] = attempt
        self._lines.append((event, {"job_id": str(job_id), "status": str(status), **facts}))

    def count(self, name: str, by: float = 1, **labels: str) -> None:
        self._amounts.update(metrics.counted(name, by, **labels))

    def observe(self, name: str, value: float, **labels: str) -> None:
        self._amounts.update(metrics.observed(name, value, **labels))

    def wake(self) -> None:
        """Wake a worker: there may be a job to claim."""
        self._has_work = True

    def deliver(self) -> None:
        """Wake the webhook worker."""
        self._has_deliveries = True

    def _send(self) -> None:
        # First, because clients may wait for it.
        notifications.moved(self._moved, attempts=self._attempts)
        if self._has_work:
            notifications.wake()
        if self._has_deliveries:
            notifications.deliver()
        for event, facts in self._lines:
            log.info(event, **facts)
        metrics.add(self._amounts)
