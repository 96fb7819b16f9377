"""Generation of a batch on the device: calls of the pipeline, progress, and the error of each job."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from uuid import UUID

import structlog
from django.conf import settings

from generation.engine import selftest
from generation.engine.errors import (
    DeviceFailed,
    DeviceUnavailable,
    EngineError,
    NotFinite,
    OutOfMemory,
)
from generation.engine.pipeline import Pipeline
from generation.engine.request import (
    GenerationRequest,
    GenerationResult,
    StoredEmbedding,
    Timings,
)
from generation.infra import heartbeat, metrics
from generation.infra.stalls import Activity, Kind, StallWatch, unknown_bound
from generation.jobs import quality_control, throughput
from generation.jobs.lifecycle import Claim
from generation.jobs.quality_control import BestPicture
from generation.jobs.throughput import Measurements
from generation.models import Job, Release
from generation.worker.leases import Leases
from generation.worker.pipelines import Loaded
from generation.worker.progress import BatchProgress
from generation.worker.step_bounds import step_bound

log = structlog.get_logger(__name__)

CRASHES_IN_A_ROW = 5  # different jobs that crash before the device counts as broken
WARM_UP_SECONDS = 0.05  # batch time from which no larger batch is measured at the start
Results = dict[Claim, list[BestPicture] | Exception]


class WorkerStopping(Exception):
    """Raised between two steps when the process has received a signal to stop."""


class Generator:
    """Generates batches. A crash counts as the job's fault only if the device still makes a test image.

    loaded: pipelines; watch: ends the process if a step takes too long; measured: batch times; use: called with each
    release that is used; between: called after each step of a teacher's batch, and may generate other batches.
    """

    def __init__(
        self,
        loaded: Loaded,
        leases: Leases,
        watch: StallWatch,
        measured: Measurements,
        *,
        use: Callable[[Release], None],
        between: Callable[[float], None],
    ) -> None:
        self._loaded = loaded
        self._leases = leases
        self._watch = watch
        self._measured = measured
        self._use = use
        self._between = between
        self._crashes = 0  # consecutive crashing jobs

    def generate(self, batch: Sequence[Job], timings: Timings) -> Results:
        """Return the images or the error of each job.

        Raises WorkerStopping, and DeviceUnavailable for errors that are no job's fault.
        """
        try:
            results = self._call(batch, timings)
        except (WorkerStopping, DeviceUnavailable):
            raise
        except EngineError as error:
            return {Claim.of(job): error for job in batch}
        except Exception as error:
            self._check_device(error)
            if len(batch) == 1:
                return {Claim.of(batch[0]): self._crashed(batch[0], error)}
            # One of the jobs causes the crash: try each separately.
            log.warning("batch_crashed", error=repr(error), jobs=len(batch))
            results = {}
            for job in batch:
                results |= self.generate([job], timings)
            return results
        self._check_results(results)
        return results

    def _crashed(self, job: Job, error: Exception) -> Exception:
        """Return the job's error. Raises DeviceFailed after too many consecutive crashes."""
        log.error("generation_crashed", job_id=str(job.id), exc_info=error)
        self._crashes += 1
        if self._crashes >= CRASHES_IN_A_ROW:
            raise DeviceFailed(
                f"{self._crashes} jobs in a row crashed, the last one with {error!r}"
            )
        return error

    def _check_results(self, results: Results) -> None:
        """Raise DeviceFailed if errors suggest a broken device and a test image fails too."""
        pictures = [one.result for job in results.values() if isinstance(job, list) for one in job]
        if any(picture.pixels is not None for picture in pictures):
            self._crashes = 0
            return
        errors = [one.error for one in pictures if isinstance(one.error, NotFinite | OutOfMemory)]
        if errors:
            self._check_device(errors[0])

    def _check_device(self, error: Exception) -> None:
        """Raise DeviceFailed unless a loaded release makes a test image."""
        failed: DeviceFailed | None = None
        for pipeline in self._loaded.any():
            try:
                with self._watch.watching(Kind.DEVICE, "test image", unknown_bound()):
                    selftest.run(pipeline)
                return
            except DeviceFailed as found:
                failed = failed or found
        if failed is not None:
            raise DeviceFailed(f"{str(error) or repr(error)}. {failed.detail}") from error

    def _call(self, batch: Sequence[Job], timings: Timings) -> Results:
        with self._watch.watching(Kind.DEVICE, "loading of a release", unknown_bound()):
            pipeline = self._loaded.get(batch[0].release)
        self._use(batch[0].release)
        rows = [(job, index) for job in batch for index in range(job.n)]
        metrics.observe("retort_batch_size", len(rows))
        embeddings = {job.id: job.embedding.stored() for job in batch}
        pictures: list[BestPicture] = []
        # Only a job that is larger than a batch has more than one part.
        most = self._measured.limit(curve_of(batch[0]), settings.BATCH_SIZE)
        for start in range(0, len(rows), most):
            part = rows[start : start + most]
            progress = BatchProgress(
                [(job.id, index) for job, index in part], done=start, total=len(rows)
            )
            requests = [_request(job, embeddings, job.seed + index) for job, index in part]
            with self._steps(batch[0], len(part)) as activity:
                results = pipeline.generate(
                    requests,
                    on_step=self._on_step(
                        [job for job, _ in part], activity, pipeline, timings, progress
                    ),
                    previews=progress,
                    timings=timings,
                )
            pictures += [
                BestPicture(*row, result) for row, result in zip(part, results, strict=True)
            ]

        def again(failing: Sequence[BestPicture]) -> list[GenerationResult]:
            results: list[GenerationResult] = []
            for start in range(0, len(failing), most):
                part = failing[start : start + most]
                requests = [_request(one.job, embeddings, one.next_seed) for one in part]
                with self._steps(batch[0], len(part)) as activity:
                    on_step = self._on_step([one.job for one in part], activity, pipeline, timings)
                    results += pipeline.generate(requests, on_step=on_step, timings=timings)
                judging.moved()
            return results

        with self._watch.watching(Kind.DEVICE, "judging of images", unknown_bound()) as judging:
            quality_control.improve(pictures, again)
        return {Claim.of(job): [one for one in pictures if one.job is job] for job in batch}

    def _steps(self, first: Job, images: int) -> AbstractContextManager[Activity]:
        curve = self._measured.curve(curve_of(first))
        bound = step_bound(curve, images, steps=first.num_inference_steps)
        return self._watch.watching(Kind.DEVICE, "step", bound)

    def _on_step(
        self,
        rows: Sequence[Job],
        activity: Activity,
        pipeline: Pipeline,
        timings: Timings,
        progress: BatchProgress | None = None,
    ) -> Callable[[int, int], Collection[int]]:
        """Return the callback between two steps, which returns the rows to drop."""
        claims = [Claim.of(job) for job in rows]
        is_of_teacher = rows[0].release.kind == Release.Kind.TEACHER
        began = time.perf_counter()

        def on_step(step: int, steps: int) -> Collection[int]:
            nonlocal began
            activity.moved()
            if heartbeat.stopping.is_set():
                raise WorkerStopping
            if progress is not None:
                progress.stepped(step, steps)
            if is_of_teacher:
                pipeline.device.synchronize()  # otherwise other batches would wait for all launched steps
                stepped = time.perf_counter()
                with self._watch.suspended():  # other batches, which wait for PostgreSQL patiently
                    self._between(stepped - began)
                began = time.perf_counter()
                timings.unet_seconds -= began - stepped
                activity.moved()
            return [row for row, claim in enumerate(claims) if self._leases.is_lost(claim)]

        return on_step


def warm_up(pipeline: Pipeline, release: Release, measured: Measurements) -> None:
    """Make a test image, then measure batches of growing size while they are fast. Raises DeviceFailed.

    Larger batches are measured when so many jobs wait.
    """
    selftest.run(pipeline)
    images, seconds = 1, 0.0
    while images <= settings.BATCH_SIZE and seconds < WARM_UP_SECONDS:
        started = time.monotonic()
        selftest.run(pipeline, images=images)
        seconds = time.monotonic() - started
        measured.record(throughput.key_of(release.pk, *release.image_sizes[0]), images, seconds)
        images *= 2


def curve_of(job: Job) -> str:
    """Return the key of the curve of the job's batches."""
    return throughput.key_of(job.release_id, job.width, job.height)


def _request(job: Job, embeddings: Mapping[UUID, StoredEmbedding], seed: int) -> GenerationRequest:
    return GenerationRequest(embeddings[job.id], seed, job.width, job.height)
