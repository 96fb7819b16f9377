"""How far a batch is, for whoever waits or watches: per cent, and previews of the images forming. Knows no rows.

Nothing here may cost a job or much time: what nobody watches is not made, and what fails is logged.
"""

import base64
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import structlog

from generation.engine import files
from generation.infra import events, notifications
from generation.infra.events import Event, Watched

log = structlog.get_logger(__name__)

TOLD_SECONDS = 0.1  # between two words about progress
FEW_STEPS = 8  # up to here each step but the last is shown
PREVIEW_SHARE = 0.1  # of the device's time that previews of more steps may take
PREVIEW_SECONDS = 0.25  # between two of them
WAITING_PREVIEWS = 32  # for their files; more are not made

# Beside the thread that computes. Made once: a batch may be over in less time than a thread needs to start.
_writer = ThreadPoolExecutor(1, thread_name_prefix="previews")
_room = threading.BoundedSemaphore(WAITING_PREVIEWS)


class BatchProgress:
    """Of one call of `Pipeline.generate`, whose previews it shows.

    rows: of each request the job and the index of the image; of `total` rows `done` were done in calls before.
    """

    def __init__(self, rows: Sequence[tuple[UUID, int]], *, done: int, total: int) -> None:
        self._rows = rows
        self._jobs = sorted({job_id for job_id, _ in rows})
        self._done = done
        self._total = total
        self._watched = Watched()
        self._told_at = self._previews_from = float("-inf")

    def stepped(self, step: int, steps: int) -> None:
        if steps == 1 and len(self._rows) == self._total:
            return  # it has not ended, and is as good as done: nothing to tell
        now = time.monotonic()
        if now - self._told_at < TOLD_SECONDS:
            return
        self._told_at = now
        percent = int(99 * (self._done + len(self._rows) * step / steps) / self._total)
        self._watched = notifications.set_progress(self._jobs, percent)
        said = {"percent": percent, "step": step, "steps": steps}
        events.tell(Event(job_id, "progress", said) for job_id in self._watched.events)

    # --- previews of the engine -------------------------------------------------------------------
    def wanted(self, step: int, steps: int) -> Collection[int]:
        if steps > FEW_STEPS and time.monotonic() < self._previews_from:
            return ()
        watched = self._watched.previews
        return [row for row, (job_id, _) in enumerate(self._rows) if job_id in watched]

    def show(self, step: int, steps: int, pixels: Mapping[int, Any], seconds: float) -> None:
        self._previews_from = time.monotonic() + max(PREVIEW_SECONDS, seconds / PREVIEW_SHARE)
        for row, image in pixels.items():
            if not _room.acquire(blocking=False):
                return
            job_id, index = self._rows[row]
            _writer.submit(_tell, job_id, {"index": index, "step": step, "steps": steps}, image)

    def failed(self, error: Exception) -> None:
        log.warning("previews_failed", jobs=len(self._jobs), error=str(error) or repr(error))


def _tell(job_id: UUID, facts: Mapping[str, Any], pixels: Any) -> None:
    try:
        shown = {"format": files.PREVIEW_FORMAT, "b64_json": _base64(files.preview(pixels))}
        events.tell([Event(job_id, "preview", {**facts, **shown})])
    except Exception:
        log.exception("preview_not_told", job_id=str(job_id))
    finally:
        _room.release()


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
