"""Makes images for the stock and variant images in an idle worker, one at a time."""

import time
from collections.abc import Callable, Collection

import structlog
from django.conf import settings

from generation.engine.request import Timings
from generation.infra.stalls import Kind, StallWatch, unknown_bound
from generation.jobs import quality_control, stock, variant_images
from generation.jobs.lifecycle import Claim
from generation.jobs.quality_control import BestPicture
from generation.models import Job
from generation.worker import writing
from generation.worker.generating import Generator

log = structlog.get_logger(__name__)

PAUSE_SECONDS = 60.0
LOOK_SECONDS = 60.0  # between two searches for missing variant images


class Stocking:
    """releases: returns the pks of the releases whose images this worker may make."""

    def __init__(
        self, generator: Generator, watch: StallWatch, releases: Callable[[], Collection[int]]
    ) -> None:
        self._generator = generator
        self._watch = watch
        self._releases = releases
        self._again_at = 0.0  # monotonic
        self._look_at = 0.0  # monotonic
        self._of_variants: list[Job] = []

    def is_wanted(self) -> bool:
        """Return whether an image may be needed."""
        releases = self._releases()
        if not releases or time.monotonic() < self._again_at:
            return False
        may_look = settings.VARIANT_IMAGES and time.monotonic() >= self._look_at
        return may_look or stock.wanted(releases) is not None

    def pause(self) -> None:
        """Make no images for a while after a failure."""
        self._again_at = time.monotonic() + PAUSE_SECONDS

    def make(self) -> bool:
        """Make an image. Return False if none is needed. Raises WorkerStopping, DeviceUnavailable, and any failure."""
        if time.monotonic() < self._again_at:
            return False
        releases = self._releases()
        if (job := stock.wanted(releases)) is not None:
            self._make_for_stock(job)
        elif (job := self._missing_of_variants(releases)) is not None:
            self._make_of_variant(job)
        else:
            return False
        return True

    def _make_for_stock(self, job: Job) -> None:
        outcome = self._generated(job)
        if isinstance(outcome, list):
            with self._watch.watching(Kind.DEVICE, "judging of images", unknown_bound()):
                quality_control.judge_rest(outcome)
        with self._watch.watching(Kind.STORAGE, "file", unknown_bound()) as activity:
            (stored,) = writing.store(job, outcome, activity)
            stock.put(job, stored)
        log.info("image_stocked", variant=job.variant.slug, release=job.release.name)

    def _missing_of_variants(self, releases: Collection[int]) -> Job | None:
        if not settings.VARIANT_IMAGES:
            return None
        # A release may have left service since the search.
        self._of_variants = [job for job in self._of_variants if job.release_id in releases]
        if not self._of_variants and time.monotonic() >= self._look_at:
            self._of_variants = variant_images.wanted(releases)
            if not self._of_variants:
                self._look_at = time.monotonic() + LOOK_SECONDS
        return self._of_variants.pop() if self._of_variants else None

    def _make_of_variant(self, job: Job) -> None:
        outcome = self._generated(job)
        with self._watch.watching(Kind.STORAGE, "file", unknown_bound()):
            variant_images.put(job, writing.store_thumbnail(outcome))
        log.info("variant_image_made", variant=job.variant.slug, release=job.release.name)

    def _generated(self, job: Job) -> list[BestPicture] | Exception:
        return self._generator.generate([job], Timings())[Claim.of(job)]
