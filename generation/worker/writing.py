"""Writes the image files of a generated batch and commits it, in a thread beside the generating one."""

import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import structlog
from django.conf import settings
from django.db import InterfaceError, InternalError, OperationalError, close_old_connections

from generation.engine import files
from generation.errors import StorageFailed
from generation.images import storage
from generation.images import store as images
from generation.images.storage import StoredFile
from generation.infra import database, heartbeat
from generation.infra.stalls import Activity, Kind, StallWatch, unknown_bound
from generation.jobs import completion, quality_control
from generation.jobs import lifecycle as jobs
from generation.jobs.completion import Result
from generation.jobs.failures import Failure
from generation.jobs.lifecycle import Claim, Outcome
from generation.jobs.quality_control import BestPicture
from generation.jobs.throughput import Measurements
from generation.models import Job
from generation.worker.generating import Results, curve_of
from generation.worker.health import Health
from generation.worker.leases import Leases
from generation.worker.probes import probe_storage

log = structlog.get_logger(__name__)
T = TypeVar("T")

PATIENCE_SECONDS = 30.0  # limit of retries if the database answers with errors or the process stops
PAUSE_SECONDS = (0.25, 2.0)  # between two tries: the first and the longest


class Writer:
    """Writes files and commits.

    watch: ends the process if a file takes too long; health: stops claims after an error of the storage; measured:
    records the time of each batch; answer: see `completion.commit`.
    """

    def __init__(
        self,
        leases: Leases,
        watch: StallWatch,
        health: Health,
        measured: Measurements,
        answer: Callable[[Sequence[Result]], object],
    ) -> None:
        self._leases = leases
        self._watch = watch
        self._health = health
        self._measured = measured
        self._answer = answer

    def write(self, batch: Sequence[Job], results: Results, *, device_seconds: float) -> None:
        """Write the files, commit the succeeded jobs in one transaction, and settle the failed ones."""
        started = time.monotonic()
        finished: list[Result] = []
        images_in_batch = sum(job.n for job in batch)
        with self._watch.watching(Kind.DEVICE, "judging of images", unknown_bound()):
            quality_control.judge_rest(
                [one for rows in results.values() if isinstance(rows, list) for one in rows]
            )
        kept = [job for job in batch if not self._leases.is_lost(Claim.of(job))]
        with self._watch.watching(Kind.STORAGE, "file", settings.STALL_SECONDS) as activity:

            def make(job: Job) -> Result | Exception:
                began = time.monotonic()
                try:
                    stored = store(job, results[Claim.of(job)], activity)
                except Exception as error:
                    return error
                share = device_seconds * job.n / images_in_batch
                return Result(job, stored, share, encode_seconds=time.monotonic() - began)

            outcomes = storage.at_once(make, kept)
            # Here and not in the transaction, where a disk that hangs would hold locks and no watch would see it.
            made = [(job, _synced(one, activity)) for job, one in zip(kept, outcomes, strict=True)]
        for job, outcome in made:
            if isinstance(outcome, Exception):
                self.note(outcome)
                settle([Claim.of(job)], outcome)
            else:
                finished.append(outcome)
        if finished:
            self.commit(finished)
            self._health.worked()
            whole = device_seconds + time.monotonic() - started
            self._measured.record(curve_of(batch[0]), images_in_batch, whole)

    def commit(self, results: Sequence[Result]) -> None:
        patiently(lambda: completion.commit(results, answer=self._answer))

    def note(self, error: Exception) -> None:
        """Stop claims if this is an error of the storage."""
        if isinstance(error, StorageFailed):
            self._health.failed(Failure.of(error), probe_storage)


class ImageDropped(Exception):
    """The image was dropped between two steps, because its job was canceled or given to another worker."""


def store(
    job: Job, outcome: list[BestPicture] | Exception, activity: Activity
) -> list[images.StoredImage]:
    """Store the job's images and return them. Raises the job's error."""
    if isinstance(outcome, Exception):
        raise outcome
    stored = []
    for one in outcome:
        stored.append(_store_one(job, one))
        activity.moved()
    return stored


def _store_one(job: Job, one: BestPicture) -> images.StoredImage:
    pixels, finding = _pixels(one), one.finding
    seed = one.result.request.seed
    stored = images.store(
        images.key_of(job, seed),
        pixels,
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


def store_thumbnail(outcome: list[BestPicture] | Exception) -> StoredFile:
    """Store only a thumbnail of a job's single image and return it. Raises the job's error."""
    if isinstance(outcome, Exception):
        raise outcome
    (one,) = outcome
    return storage.save(files.thumbnail(files.encode(_pixels(one), "png")), "webp")


def _pixels(one: BestPicture) -> Any:
    if one.result.error is not None:
        raise one.result.error
    if one.result.pixels is None:
        raise ImageDropped
    return one.result.pixels


def _synced(outcome: Result | Exception, activity: Activity) -> Result | Exception:
    """Wait until the result's files are on the disk. Return the result, or the error."""
    if isinstance(outcome, Result):
        try:
            images.sync(outcome.images)
        except StorageFailed as error:
            return error
        activity.moved()
    return outcome


def settle(claims: Iterable[Claim], error: Exception) -> None:
    """End these attempts with the error."""
    failure = Failure.of(error)
    for claim in claims:
        patiently(partial(jobs.settle, claim, Outcome.FAILED, failure))


def give_back(claims: Iterable[Claim]) -> None:
    """Queue the jobs again, because the worker stops before it has generated them."""
    stopped = Failure("", "The worker stopped.")
    for claim in claims:
        patiently(partial(jobs.settle, claim, Outcome.RELEASED, stopped))


def patiently(action: Callable[[], T], *, before_retry: Callable[[], None] | None = None) -> T:
    """Return the result of `action`. Retry it while PostgreSQL is unreachable: an outage must not cost finished images.

    Updates filtered on the old status make repeating safe. before_retry: repairs the effects of a failed try.
    """
    pause, longest = PAUSE_SECONDS
    deadline: float | None = None
    retries = False
    while True:
        try:
            if retries and before_retry:
                before_retry()
            return action()
        except (OperationalError, InterfaceError, InternalError) as error:
            if deadline is None and (heartbeat.stopping.is_set() or not is_away(error)):
                deadline = time.monotonic() + PATIENCE_SECONDS
            if deadline is not None and time.monotonic() > deadline:
                raise
            log.warning("database_away", error=str(error).strip())
            close_old_connections()  # the next try opens a new one
            database.leave_read_only(error)
            time.sleep(random.uniform(pause / 2, pause))
            pause = min(longest, 2 * pause)
            retries = True


def is_away(error: Exception) -> bool:
    """Return whether PostgreSQL is unreachable or accepts no writes: it restarts, fails over or is full."""
    code = database.sqlstate(error)
    return not code or code.startswith(("08", "53", "57P", database.READ_ONLY))
