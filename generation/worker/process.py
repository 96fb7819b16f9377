"""One generation worker: a process that holds a device, takes batches of jobs and commits their images.

Knows the engine and the life of a job; knows nothing of HTTP, of Celery's messages or of text encoders.
"""

import gc
import math
import os
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from functools import partial
from typing import TypeVar
from uuid import UUID

import structlog
from django.conf import settings
from django.db import InterfaceError, OperationalError, close_old_connections
from django.utils import timezone

from generation.engine.device import use_threads
from generation.engine.errors import EngineError
from generation.engine.pipeline import Pipeline
from generation.engine.request import (
    GenerationRequest,
    GenerationResult,
    StoredEmbedding,
    Timings,
)
from generation.errors import INTERNAL_ERROR, GenerationError, StorageFailed
from generation.images import storage
from generation.images import store as images
from generation.infra import heartbeat, metrics, notifications
from generation.infra.redis_client import attempt
from generation.jobs import claiming, completion, quality_control, throughput
from generation.jobs import lifecycle as jobs
from generation.jobs.claiming import Claimed
from generation.jobs.completion import Result
from generation.jobs.lifecycle import Claim, Outcome, Served
from generation.jobs.quality_control import Made
from generation.models import Job, Release, Worker
from generation.worker.pipelines import Loaded, wanted
from generation.worker.progress import BatchProgress

log = structlog.get_logger(__name__)
T = TypeVar("T")

TURN_SECONDS = 10.0
LOOK_SECONDS = 5.0  # into the queue at least so often
CALL_SECONDS = 1  # waiting for a call at once: what a stop may wait for
IDLE_SECONDS = 2.0  # without a turn for so long, one is asked for
UNCOMMITTED_BATCHES = 2  # batches whose files may be written while the device runs the next
DATABASE_PATIENCE_SECONDS = 30.0
EXIT_DEAF = 70


class WorkerStopping(Exception):
    """Raised between two steps when the process has been asked to stop."""


# The state of this process. Written by the main thread; the heartbeat thread reads `_claims` and fills `_dropped`.
_loaded = Loaded()
_said: tuple[int | None, list[int]] = (None, [])  # in the worker's row
_claims: set[Claim] = set()
_dropped: set[Claim] = set()
_guard = threading.Lock()
_queue = "generation"
_last_run = time.monotonic()
_lease_extended = 0.0
_writers = ThreadPoolExecutor(  # each beside the thread that generates
    UNCOMMITTED_BATCHES, thread_name_prefix="writer", initializer=partial(use_threads, 1)
)
_teller = ThreadPoolExecutor(1, thread_name_prefix="teller")  # of claims, while the device runs
_served: Served | None = None  # as of the last tick
_peers = 1  # workers of the queue, this one included, as of the last tick


# --- the process ----------------------------------------------------------------------------------
def begin(queue: str = "generation") -> None:
    """Load what is being served, then show the heartbeat. queue: what the process consumes."""
    global _last_run, _queue, _said
    _queue = queue
    use_threads(settings.TORCH_THREADS)
    release = next(iter(_look().releases.values()), None)
    loaded = _loaded.get(release) if release else None
    metrics.keep_back()
    heartbeat.begin(queue, device=loaded.describe() if loaded else "", release=release, tick=_tick)
    _said = (release.pk if release else None, [])
    _say_loaded()
    # What is loaded now stays: a full collection that looks through torch again stops everything for tens of
    # milliseconds.
    gc.collect()
    gc.freeze()
    _last_run = time.monotonic()


def serve() -> None:
    """A turn: batches as they are wanted, until it is over or the process should stop. Then the next turn is asked for.

    Celery gets the thread back in between, so that it sees signals and what became of its connection.
    """
    global _last_run
    deadline = time.monotonic() + TURN_SECONDS
    close_old_connections()
    writing: list[Future[None]] = []
    look_at = time.monotonic()
    is_called = False
    while not heartbeat.stopping.is_set() and time.monotonic() < deadline:
        # Also if nobody calls: a call may be lost.
        if is_called or time.monotonic() >= look_at:
            _run_batches(writing, until=deadline)
            look_at = time.monotonic() + LOOK_SECONDS
        is_called = notifications.await_call(_queue, seconds=CALL_SECONDS)
        _last_run = time.monotonic()
    _finish(writing)
    if not heartbeat.stopping.is_set():
        notifications.turn(_queue, workers=_peers)


def run() -> None:
    """Batches until the queue is empty or the process should stop."""
    global _served
    _served = None  # whoever calls this need not tick
    writing: list[Future[None]] = []
    _run_batches(writing)
    _finish(writing)


def _run_batches(writing: list[Future[None]], *, until: float = math.inf) -> None:
    """Batches until nothing is left to claim. writing: those whose files are being made, then and afterwards."""
    global _last_run
    has_more = True
    while has_more and not heartbeat.stopping.is_set():
        _last_run = time.monotonic()
        if _last_run > until:
            break
        batch, told = _claim()
        if not batch.jobs:
            break
        has_more = batch.has_more
        if has_more:
            notifications.wake(_queue)  # somebody else may be idle
        writing.append(_run_batch(batch, told))
        if len(writing) >= UNCOMMITTED_BATCHES:
            writing.pop(0).result()
    _last_run = time.monotonic()


def _claim() -> tuple[Claimed, list[Future[None]]]:
    """A batch, and what is done when others were told of it."""
    told: list[Future[None]] = []

    def tell(others: Callable[[], None]) -> None:
        told.append(_teller.submit(others))

    batch = _patiently(
        lambda: jobs.claim(settings.WORKER_NAME, queue=_queue, served=_served, tell=tell)
    )
    return batch, told


def _finish(writing: list[Future[None]]) -> None:
    global _last_run
    for future in writing:
        future.result()
    _last_run = time.monotonic()


def _run_batch(claimed: Claimed, told: Collection[Future[None]] = ()) -> "Future[None]":
    """Generate, then hand the pixels to a writer thread. told: done when others know of the claim."""
    claims = {job.id: Claim.of(job) for job in claimed.jobs}
    with _guard:
        _claims.update(claims.values())
    try:
        batch = _answer_repeats(claimed)
        timings = Timings()
        results = _generate(batch, claims, timings) if batch else {}
    except WorkerStopping:
        return _writers.submit(_give_back, list(claims.values()))
    except BaseException:
        _let_go(claims.values())  # their leases run out, and somebody else gets them
        raise
    return _writers.submit(_write, batch, claims, results, timings, told)


def _answer_repeats(claimed: Claimed) -> list[Job]:
    """What must be computed. A job submitted while an identical one was being committed finds its images here."""
    twins = [job for job in claimed.jobs if job.id in claimed.repeats]
    if not twins:
        return list(claimed.jobs)
    found = images.find_rows(twins)
    repeats = [
        Result(job, found[job.id], 0.0, Job.Cache.HIT)
        for job in twins
        if job.id in found and images.answers(job, found[job.id])
    ]
    if repeats:
        _patiently(lambda: completion.commit(repeats))
    answered = {repeat.job.id for repeat in repeats}
    return [job for job in claimed.jobs if job.id not in answered]


# --- on the device --------------------------------------------------------------------------------
Results = dict[Claim, list[Made] | Exception]


def _generate(batch: Sequence[Job], claims: dict, timings: Timings) -> Results:
    """Each job's results, or the error of all of it."""
    try:
        return _call(batch, claims, timings)
    except WorkerStopping:
        raise
    except EngineError as error:
        return dict.fromkeys((claims[job.id] for job in batch), error)
    except Exception as error:
        if len(batch) == 1:
            log.exception("generation_crashed", job_id=str(batch[0].id))
            return {claims[batch[0].id]: error}
        # One of them is poison. Alone, each gets its own verdict.
        log.warning("batch_crashed", error=repr(error), jobs=len(batch))
        results: Results = {}
        for job in batch:
            results |= _generate([job], claims, timings)
        return results


def _call(batch: Sequence[Job], claims: dict, timings: Timings) -> Results:
    loaded = _pipeline(batch[0].release)
    rows = [(job, index) for job in batch for index in range(job.n)]
    metrics.observe("retort_batch_size", len(rows))
    embeddings = {job.id: job.embedding.stored() for job in batch}
    made: list[Made] = []
    # More than one part only for a job that is larger than a batch.
    for start in range(0, len(rows), settings.BATCH_SIZE):
        part = rows[start : start + settings.BATCH_SIZE]
        requests = [_request(job, embeddings, job.seed + index) for job, index in part]
        progress = BatchProgress(
            [(job.id, index) for job, index in part], done=start, total=len(rows)
        )
        on_step = _watch([claims[job.id] for job, _ in part], progress)
        results = loaded.generate(requests, on_step=on_step, previews=progress, timings=timings)
        made += [Made(*row, result) for row, result in zip(part, results, strict=True)]

    def again(failing: Sequence[Made]) -> list[GenerationResult]:
        results: list[GenerationResult] = []
        for start in range(0, len(failing), settings.BATCH_SIZE):
            part = failing[start : start + settings.BATCH_SIZE]
            requests = [_request(one.job, embeddings, one.next_seed) for one in part]
            on_step = _watch([claims[one.job.id] for one in part])
            results += loaded.generate(requests, on_step=on_step, timings=timings)
        return results

    quality_control.improve(made, again)
    return {claims[job.id]: [one for one in made if one.job is job] for job in batch}


def _request(job: Job, embeddings: Mapping[UUID, StoredEmbedding], seed: int) -> GenerationRequest:
    return GenerationRequest(embeddings[job.id], seed, job.width, job.height)


def _watch(
    rows: list[Claim], progress: BatchProgress | None = None
) -> Callable[[int, int], Collection[int]]:
    """The callback between two steps: drops rows that were taken from us, stops with the process, says progress."""

    def on_step(step: int, steps: int) -> Collection[int]:
        if heartbeat.stopping.is_set():
            raise WorkerStopping
        if progress is not None:
            progress.stepped(step, steps)
        return [index for index, claim in enumerate(rows) if claim in _dropped] if _dropped else ()

    return on_step


def _pipeline(release: Release) -> Pipeline:
    loaded = _loaded.get(release)
    _say_loaded(release)
    return loaded


def _look() -> Served:
    """What this worker should hold ready, and of which releases it takes jobs."""
    kind = jobs.wanted_kind(_queue)
    return Served(kind, {one.pk: one for one in wanted() if kind in (None, one.kind)})


def _say_loaded(release: Release | None = None) -> None:
    """Write which releases are ready here, and which one was asked for last, when that changed."""
    global _said
    facts = (release.pk if release else _said[0], _loaded.ids())
    if facts != _said:
        _said = facts
        Worker.objects.filter(name=settings.WORKER_NAME).update(
            release_id=facts[0], loaded=facts[1]
        )


# --- in a writer thread ---------------------------------------------------------------------------
def _write(
    batch: Sequence[Job],
    claims: dict,
    results: Results,
    timings: Timings,
    told: Collection[Future[None]],
) -> None:
    """Make the files, commit what succeeded in one transaction, settle what did not."""
    wait(told)  # nobody hears of an end before the start
    try:
        _write_files(batch, claims, results, timings.unet_seconds + timings.decoder_seconds)
    finally:
        _let_go(claims.values())


def _write_files(
    batch: Sequence[Job], claims: dict, results: Results, device_seconds: float
) -> None:
    started = time.monotonic()
    finished: list[Result] = []
    images_in_batch = sum(job.n for job in batch)
    quality_control.judge_rest(
        [one for rows in results.values() if not isinstance(rows, Exception) for one in rows]
    )

    def make(job: Job) -> Result | Exception:
        began = time.monotonic()
        try:
            stored = _store(job, results[claims[job.id]])
        except Exception as error:
            return error
        share = device_seconds * job.n / images_in_batch
        return Result(job, stored, share, encode_seconds=time.monotonic() - began)

    # The others were canceled, or another worker has them: nothing of ours is wanted.
    kept = [job for job in batch if claims[job.id] not in _dropped]
    for job, outcome in zip(kept, storage.at_once(make, kept), strict=True):
        if isinstance(outcome, Exception):
            _settle_error(claims[job.id], outcome)
        else:
            finished.append(outcome)
    if finished:
        _patiently(lambda: completion.commit(finished))
        first = batch[0]  # all of a batch have its release and its size
        key = throughput.key_of(first.release_id, first.width, first.height)
        whole = device_seconds + time.monotonic() - started
        throughput.record({key: whole / images_in_batch})


def _store(job: Job, outcome: list[Made] | Exception) -> list[images.StoredImage]:
    if isinstance(outcome, Exception):
        raise outcome
    return [_store_one(job, one) for one in outcome]


def _store_one(job: Job, one: Made) -> images.StoredImage:
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
    _patiently(
        lambda: jobs.settle(claim, Outcome.FAILED, code=code, detail=detail, retryable=retryable)
    )


def _give_back(claims: Sequence[Claim]) -> None:
    for claim in claims:
        _patiently(partial(jobs.settle, claim, Outcome.RELEASED, detail="The worker stopped."))
    _let_go(claims)


def _let_go(claims: Collection[Claim]) -> None:
    with _guard:
        _claims.difference_update(claims)
        _dropped.difference_update(claims)


def _patiently(action: Callable[[], T]) -> T:
    """`action`, again while PostgreSQL is away: a restart must not cost finished images. Guards make repeating safe."""
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


# --- in the heartbeat thread ----------------------------------------------------------------------
def _tick() -> None:
    """Renew the leases, notice jobs that are ours no more, prepare what is served next, notice that we are deaf."""
    global _lease_extended, _last_run, _peers, _served
    _served, _peers = _look(), max(1, heartbeat.living(_queue))
    _loaded.prepare(list(_served.releases.values()))
    metrics.flush()
    _say_loaded()
    with _guard:
        claims = set(_claims)
    now = time.monotonic()
    if claims:
        jobs.end_overdue()
        extend = now - _lease_extended > settings.LEASE_SECONDS / 4
        lost = claims - jobs.held(claims, extend=extend)
        if extend:
            _lease_extended = now
        with _guard:
            _dropped.update(lost & _claims)
    elif not attempt(lambda redis: redis.ping(), False):
        _last_run = now  # nobody can hear now; the patience begins when Redis is back
    elif is_deaf(idle_seconds=now - _last_run):
        log.error("worker_deaf", worker=settings.WORKER_NAME, idle_seconds=round(now - _last_run))
        os._exit(EXIT_DEAF)  # not an exception: the main thread may hang in the broker's socket
    elif now - _last_run > IDLE_SECONDS:
        notifications.turn(_queue, workers=_peers)  # its message was lost, or never sent


def is_deaf(*, idle_seconds: float) -> bool:
    """Whether jobs have waited for DEAF_SECONDS beside this idle worker, though Redis answers.

    Seen with Celery 5.7.0: when Redis goes away during a task of a solo worker, the late "Couldn't ack" leaves it
    connected to nothing, for ever.
    """
    if idle_seconds < settings.DEAF_SECONDS:
        return False
    oldest = claiming.oldest(jobs.wanted_kind(_queue))
    return oldest is not None and (timezone.now() - oldest).total_seconds() > settings.DEAF_SECONDS
