"""Row of this worker process: which releases it holds, and its fault. Written when that changes."""

from dataclasses import dataclass

import django.db
import structlog

from generation.infra import heartbeat
from generation.jobs.failures import Failure

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class RowFacts:
    """What the worker's row says of it. release_id: the one used last."""

    release_id: int | None
    loaded: tuple[int, ...]
    fault: Failure | None


class Row:
    """Writes the row, and remembers what it has written."""

    def __init__(self) -> None:
        self._written: RowFacts | None = None

    def write(self, facts: RowFacts) -> None:
        if facts == self._written:
            return
        try:
            heartbeat.note_loaded(release_id=facts.release_id, loaded=list(facts.loaded))
            fault = facts.fault or Failure("", "")
            heartbeat.note_fault(code=fault.code, detail=fault.detail)
            self._written = facts
        except django.db.Error as error:
            log.warning("worker_row_not_written", error=str(error).strip())
