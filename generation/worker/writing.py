"""Image files of a generated batch and its commit, in a thread beside the one that generates."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

import structlog
from django.db import InterfaceError, OperationalError, close_old_connections

from generation.engine.errors import EngineError
from generation.errors import INTERNAL_ERROR, GenerationError, StorageFailed
from generation.images import storage
from generation.images import store as images
from generation.jobs import completion, quality_control, throughput
from generation.jobs import lifecycle as jobs
from generation.jobs.completion import Result
from generation.jobs.lifecycle import Claim, Outcome
from generation.jobs.quality_control import BestPicture
from generation.models import Job
from generation.worker.generating import Results
from generation.worker.leases import Leases

log = structlog.get_logger(__name__)
T = TypeVar("T")

DATABASE_PATIENCE_SECONDS = 30.0


def write(batch: Sequence[Job], results: Results, *, device_seconds: float, leases: Leases) -> None:
    """Write the files, commit what succeeded in one transaction, settle what failed."""
    started = time.monotonic()
    finished: list[Result] = []
    images_in_batch = sum(job.n for job in batch)
    quality_control.judge_rest(
        [one for rows in results.values() if not isinstance(rows, Exception) for one in rows]
    )

    def make(job: Job) -> Result | Exception:
        began = time.monotonic()
        try:
            stored = _store(job, results[Claim.of(job)])
        except Exception as error:
            return error
        share = device_seconds * job.n / images_in_batch
        return Result(job, stored, share, encode_seconds=time.monotonic() - began)

    kept = [job for job in batch if not leases.is_lost(Claim.of(job))]
    for job, outcome in zip(kept, storage.at_once(make, kept), strict=True):
        if isinstance(outcome, Exception):
            _settle_error(Claim.of(job), outcome)
        else:
            finished.append(outcome)
    if finished:
        patiently(lambda: completion.commit(finished))
        first = batch[0]  # all of a batch have its release and its size
        key = throughput.key_of(first.release_id, first.width, first.height)
        whole = device_seconds + time.monotonic() - started
        throughput.record({key: whole / images_in_batch})


def _store(job: Job, outcome: list[BestPicture] | Exception) -> list[images.StoredImage]:
    if isinstance(outcome, Exception):
        raise outcome
    return [_store_one(job, one) for one in outcome]


def _store_one(job: Job, one: BestPicture) -> images.StoredImage:
    result, finding = one.result, one.finding
    if result.error is not None:
        raise result.error
    if result.pixels is None:
        raise StorageFailed("The image was dropped between two steps.")
    seed = result.request.seed
    stored = images.store(
        images.key_of(job, seed),
        result.pixels,
        job.output_format,
        metadata=images.metadata(job, seed),
    )
    stored = replace(stored, seed=seed, tries=one.tries)
    if finding is None:
        return stored
    return replace(
        stored,
        is_accepted=finding.is_accepted,
        failing=finding.failing,
        detector=finding.detector,
    )


def _settle_error(claim: Claim, error: Exception) -> None:
    if isinstance(error, EngineError | GenerationError):
        code, retryable = error.code, error.retryable
    else:
        code, retryable = INTERNAL_ERROR, True
    detail = str(error)[:2000] or repr(error)
    patiently(
        lambda: jobs.settle(claim, Outcome.FAILED, code=code, detail=detail, retryable=retryable)
    )


def give_back(claims: Iterable[Claim]) -> None:
    """Queue the jobs again: the worker stops before it has generated them."""
    for claim in claims:
        patiently(partial(jobs.settle, claim, Outcome.RELEASED, detail="The worker stopped."))


def patiently(action: Callable[[], T]) -> T:
    """Return what `action` returns; retry it while PostgreSQL is away, since a restart must not cost finished images.

    Guarded updates make repeating safe.
    """
    deadline = time.monotonic() + DATABASE_PATIENCE_SECONDS
    while True:
        try:
            return action()
        except (OperationalError, InterfaceError) as error:
            if time.monotonic() > deadline:
                raise
            log.warning("database_away", error=str(error).strip())
            close_old_connections()  # the one that broke; a new one is tried
            time.sleep(0.25)
