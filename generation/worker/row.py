"""Row of this worker process: its loaded releases and its fault, written when they change."""

from dataclasses import dataclass

import django.db
import structlog

from generation.infra import heartbeat
from generation.jobs.failures import Failure

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class RowFacts:
    """Columns of the worker's row. release_id: the one used last."""

    release_id: int | None
    loaded: tuple[int, ...]
    fault: Failure | None


class Row:
    """Writes the row unless it is unchanged."""

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
