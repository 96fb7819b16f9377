"""Makes images for the stock (`generation.jobs.stock`) in an idle worker, one at a time."""

import time
from collections.abc import Callable, Collection

import structlog

from generation.engine.request import Timings
from generation.infra.stalls import Kind, StallWatch, unknown_bound
from generation.jobs import quality_control, stock
from generation.jobs.lifecycle import Claim
from generation.models import Job
from generation.worker import writing
from generation.worker.generating import Generator

log = structlog.get_logger(__name__)

PAUSE_SECONDS = 60.0


class Stocking:
    """releases: returns the pks of the releases whose images this worker may stock."""

    def __init__(
        self, generator: Generator, watch: StallWatch, releases: Callable[[], Collection[int]]
    ) -> None:
        self._generator = generator
        self._watch = watch
        self._releases = releases
        self._again_at = 0.0  # monotonic

    def is_wanted(self) -> bool:
        return self._wanted() is not None

    def pause(self) -> None:
        """Stop stocking for a while after a failure."""
        self._again_at = time.monotonic() + PAUSE_SECONDS

    def _wanted(self) -> Job | None:
        if time.monotonic() < self._again_at:
            return None
        return stock.wanted(self._releases())

    def make(self) -> bool:
        """Stock an image. Return False if none is needed. Raises WorkerStopping, DeviceUnavailable, and any failure."""
        job = self._wanted()
        if job is None:
            return False
        outcome = self._generator.generate([job], Timings())[Claim.of(job)]
        if isinstance(outcome, list):
            with self._watch.watching(Kind.DEVICE, "judging of images", unknown_bound()):
                quality_control.judge_rest(outcome)
        with self._watch.watching(Kind.STORAGE, "file", unknown_bound()) as activity:
            (stored,) = writing.store(job, outcome, activity)
            stock.put(job, stored)
        log.info("image_stocked", variant=job.variant.slug, release=job.release.name)
        return True
