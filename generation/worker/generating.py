"""Generation of a batch on the device: calls of the pipeline, progress, and the error of each job."""

from collections.abc import Callable, Collection, Mapping, Sequence
from uuid import UUID

import structlog
from django.conf import settings

from generation.engine.errors import EngineError
from generation.engine.pipeline import Pipeline
from generation.engine.request import (
    GenerationRequest,
    GenerationResult,
    StoredEmbedding,
    Timings,
)
from generation.infra import heartbeat, metrics
from generation.jobs import quality_control
from generation.jobs.lifecycle import Claim
from generation.jobs.quality_control import BestPicture
from generation.models import Job, Release
from generation.worker.leases import Leases
from generation.worker.progress import BatchProgress

log = structlog.get_logger(__name__)

Results = dict[Claim, list[BestPicture] | Exception]


class WorkerStopping(Exception):
    """Raised between two steps when the process has been asked to stop."""


class Generator:
    """load: returns the pipeline of a release, ready on the device."""

    def __init__(self, load: Callable[[Release], Pipeline], leases: Leases) -> None:
        self._load = load
        self._leases = leases

    def generate(self, batch: Sequence[Job], timings: Timings) -> Results:
        """Return each job's images, or the error of all of it. Raises WorkerStopping."""
        try:
            return self._call(batch, timings)
        except WorkerStopping:
            raise
        except EngineError as error:
            return {Claim.of(job): error for job in batch}
        except Exception as error:
            if len(batch) == 1:
                log.exception("generation_crashed", job_id=str(batch[0].id))
                return {Claim.of(batch[0]): error}
            # One of them is poison. Alone, each gets its own verdict.
            log.warning("batch_crashed", error=repr(error), jobs=len(batch))
            results: Results = {}
            for job in batch:
                results |= self.generate([job], timings)
            return results

    def _call(self, batch: Sequence[Job], timings: Timings) -> Results:
        pipeline = self._load(batch[0].release)
        rows = [(job, index) for job in batch for index in range(job.n)]
        metrics.observe("retort_batch_size", len(rows))
        embeddings = {job.id: job.embedding.stored() for job in batch}
        pictures: list[BestPicture] = []
        # More than one part only for a job that is larger than a batch.
        for start in range(0, len(rows), settings.BATCH_SIZE):
            part = rows[start : start + settings.BATCH_SIZE]
            progress = BatchProgress(
                [(job.id, index) for job, index in part], done=start, total=len(rows)
            )
            results = pipeline.generate(
                [_request(job, embeddings, job.seed + index) for job, index in part],
                on_step=self._on_step([job for job, _ in part], progress),
                previews=progress,
                timings=timings,
            )
            pictures += [
                BestPicture(*row, result) for row, result in zip(part, results, strict=True)
            ]

        def again(failing: Sequence[BestPicture]) -> list[GenerationResult]:
            results: list[GenerationResult] = []
            for start in range(0, len(failing), settings.BATCH_SIZE):
                part = failing[start : start + settings.BATCH_SIZE]
                requests = [_request(one.job, embeddings, one.next_seed) for one in part]
                on_step = self._on_step([one.job for one in part])
                results += pipeline.generate(requests, on_step=on_step, timings=timings)
            return results

        quality_control.improve(pictures, again)
        return {Claim.of(job): [one for one in pictures if one.job is job] for job in batch}

    def _on_step(
        self, rows: Sequence[Job], progress: BatchProgress | None = None
    ) -> Callable[[int, int], Collection[int]]:
        """Return the callback between two steps, which returns the rows that are no longer wanted."""
        claims = [Claim.of(job) for job in rows]

        def on_step(step: int, steps: int) -> Collection[int]:
            if heartbeat.stopping.is_set():
                raise WorkerStopping
            if progress is not None:
                progress.stepped(step, steps)
            return [row for row, claim in enumerate(claims) if self._leases.is_lost(claim)]

        return on_step


def _request(job: Job, embeddings: Mapping[UUID, StoredEmbedding], seed: int) -> GenerationRequest:
    return GenerationRequest(embeddings[job.id], seed, job.width, job.height)
