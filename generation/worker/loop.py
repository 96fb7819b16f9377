"""Generation worker: the process that uses a device, claims batches of jobs and commits their images."""

import gc
import os
from collections import deque
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from functools import partial

import structlog
from django.conf import settings

from generation.engine import selftest
from generation.engine.device import use_threads
from generation.engine.errors import DeviceFailed, DeviceUnavailable, ReleaseInvalid
from generation.engine.request import Timings
from generation.errors import StorageFailed
from generation.images import store as images
from generation.infra import heartbeat, metrics, notifications, queues, stalls
from generation.infra.stalls import (
    EXIT_STALLED,
    Activity,
    Kind,
    StallWatch,
    unknown_bound,
)
from generation.infra.watchdog import Watchdog
from generation.jobs import lifecycle as jobs
from generation.jobs.claiming import Claimed
from generation.jobs.completion import Result
from generation.jobs.failures import Failure
from generation.jobs.lifecycle import Claim, Served
from generation.jobs.throughput import Measurements
from generation.models import Job, Release
from generation.worker import writing
from generation.worker.answering import Answering
from generation.worker.generating import Generator, Results, WorkerStopping, warm_up
from generation.worker.health import Health
from generation.worker.interleaving import Interleaving
from generation.worker.leases import Leases
from generation.worker.pipelines import Loaded, wanted
from generation.worker.probes import probe_storage
from generation.worker.row import Row, RowFacts
from generation.worker.stocking import Stocking
from generation.worker.writing import Writer

log = structlog.get_logger(__name__)

UNCOMMITTED_BATCHES = 2  # batches whose files may be written while the device computes the next one
EXIT_DEVICE = 71  # exit code; 70 is the watchdog's, 72 that of stalls
PROBES_OF_DEVICE = 4  # after so many failures a process with a broken device is restarted


class GenerationWorker:
    """The loop of one process. queue: the queue that it consumes, "generation" or "reference".

    The main thread claims and generates, two threads write files and commit, one answers identical jobs, one reports
    claims, and the heartbeat thread renews leases and loads the releases that serve next. A process with a broken
    device, or with an activity that makes no progress, gives its jobs back and ends with `exit_process`; the supervisor
    restarts it.
    """

    def __init__(
        self, queue: str = queues.GENERATION, exit_process: Callable[[int], object] = os._exit
    ) -> None:
        self.queue = queue
        self.loaded = Loaded()
        self.leases = Leases()
        self.health = Health()
        self.watch = StallWatch(self._stalled)
        self.measured = Measurements()
        self._exit = exit_process
        interleaving = Interleaving(
            releases=self._interleaved,
            is_waiting=lambda only: self.is_work_waiting(only=only),
            generate=self._serve_batch,
        )
        self._generator = Generator(
            self.loaded,
            self.leases,
            self.watch,
            self.measured,
            use=self._update_row,
            between=interleaving.run,
        )
        self._answering = Answering(self.watch)
        self._writer = Writer(
            self.leases, self.watch, self.health, self.measured, self._answering.answer
        )
        self._stocking = Stocking(self._generator, self.watch, self._stocked)
        self._writers = ThreadPoolExecutor(
            UNCOMMITTED_BATCHES, thread_name_prefix="writer", initializer=partial(use_threads, 1)
        )
        self._reporter = ThreadPoolExecutor(1, thread_name_prefix="reporter")
        self._writing: deque[Future[None]] = deque()
        self._served: Served | None = None  # read by the last tick
        self._release: int | None = None  # pk of the one used last
        self._row = Row()

    # --- the process ------------------------------------------------------------------------------
    def begin(self) -> None:
        """Load the releases in service, make a test image, start the heartbeat, and wake the queue."""
        use_threads(settings.TORCH_THREADS)
        self.watch.begin()
        before = heartbeat.last_fault(self.queue)
        if before == StorageFailed.code:
            self.health.failed(Failure(before, "It failed before this start."), probe_storage)
        device = self._begin_device()
        metrics.start_buffering()
        watchdog = Watchdog(
            is_work_waiting=self.is_work_waiting, send=partial(notifications.wake, self.queue)
        )

        def tick() -> None:
            self.tick()
            watchdog.check()

        heartbeat.begin(self.queue, device=device, tick=tick)
        self._update_row()
        # Exclude loaded modules from garbage collection: a full collection over torch's objects stops everything for
        # tens of milliseconds.
        gc.collect()
        gc.freeze()
        notifications.wake(self.queue)

    def _begin_device(self) -> str:
        """Load a release in service that makes a test image, if there is one. Return the device as text."""
        failed: tuple[Release, DeviceUnavailable] | None = None
        for release in self.read_served().releases.values():
            self._release = release.pk
            try:
                with self.watch.watching(Kind.DEVICE, "start of the device", unknown_bound()):
                    loaded = self.loaded.get(release)
                    warm_up(loaded, release, self.measured)
                return loaded.describe()
            except ReleaseInvalid as error:
                log.error("release_not_loaded", release=release.name, error=error.detail)
            except DeviceUnavailable as error:  # the release's fault if another release works
                log.error("release_not_loaded", release=release.name, error=error.detail)
                failed = failed or (release, error)
        if failed is not None:
            release, why = failed
            self.health.failed(Failure.of(why), partial(self._probe_device, release))
        return ""

    def _probe_device(self, release: Release) -> None:
        """Make a test image. Raises DeviceUnavailable; after PROBES_OF_DEVICE failures it ends the process."""
        try:
            with self.watch.watching(Kind.DEVICE, "test image", unknown_bound()):
                selftest.run(self.loaded.get(release))
        except DeviceUnavailable as error:
            if self.health.tries >= PROBES_OF_DEVICE:
                self._end_process(EXIT_DEVICE, Failure.of(error))
            raise

    def finish(self) -> None:
        """Wait until all generated images are committed."""
        wait(self._writing)
        self._answering.finish()

    def end(self) -> None:
        """Commit the generated images, and end the threads."""
        self.finish()
        for threads in (self._writers, self._reporter):
            threads.shutdown()
        self._answering.end()
        self.watch.end()
        metrics.flush()

    def serve(self) -> None:
        """Generate batches until no job is left or the process should stop. Files may still be written afterwards.

        Without jobs, make images for the stock and variant images, one by one.
        """
        notifications.received(self.queue)
        while self._serve_batch() or self._make_ahead():
            pass

    def _serve_batch(self, only: Collection[int] | None = None) -> bool:
        """Claim a batch and generate it. Return whether another one may wait. only: pks of releases, None = all."""
        if not self.health.is_good or heartbeat.stopping.is_set():
            return False
        claimed, reports = self._claim(only)
        if not claimed.jobs:
            return False
        if claimed.has_more:
            notifications.wake(self.queue)  # for another worker, which may be idle
        self._writing.append(self.run_batch(claimed, reports))
        while len(self._writing) >= UNCOMMITTED_BATCHES:
            wait([self._writing.popleft()])
        return claimed.has_more

    def _interleaved(self) -> list[int]:
        """Return the pks of the releases whose jobs may run between the steps of a teacher's batch."""
        serves_both = self._served is not None and self._served.kind is None
        return self.loaded.of_kind(Release.Kind.STUDENT) if serves_both else []

    def _stocked(self) -> list[int]:
        """Return the pks of the releases whose images may be made ahead: students in service that are loaded."""
        served = self._served.releases if self._served else {}
        return [pk for pk in self.loaded.of_kind(Release.Kind.STUDENT) if pk in served]

    def _make_ahead(self) -> bool:
        """Make an image for the stock or a variant image. Return whether more may be needed."""
        if not self.health.is_good or heartbeat.stopping.is_set():
            return False
        try:
            return self._stocking.make()
        except DeviceUnavailable as error:
            self._end_with_broken_device(error)
        except Exception as error:
            log.warning("image_not_stocked", error=str(error) or repr(error))
            self._writer.note(error)
            self._stocking.pause()
        return False

    def _claim(self, only: Collection[int] | None) -> tuple[Claimed, list[Future[None]]]:
        """Claim a batch. Return it, and futures of the notifications about the claim."""
        reports: list[Future[None]] = []

        def report(action: Callable[[], None]) -> None:
            reports.append(self._reporter.submit(action))

        name = settings.WORKER_NAME
        claimed = writing.patiently(
            lambda: jobs.claim(
                name,
                queue=self.queue,
                served=self._served,
                without=self.loaded.paused(),
                only=only,
                limits=self.measured.limits(settings.BATCH_SIZE),
                defer=report,
            ),
            before_retry=lambda: jobs.give_back_unknown(name, known=self.leases.held()),
        )
        return claimed, reports

    def run_batch(self, claimed: Claimed, reports: Collection[Future[None]] = ()) -> "Future[None]":
        """Generate, then pass the pixels to a writer thread. reports: to be finished before the end is reported."""
        claims = [Claim.of(job) for job in claimed.jobs]
        self.leases.add(claims)
        action: Callable[[], None]
        try:
            batch = self._answer_repeats(claimed)
            timings = Timings()
            results = self._generator.generate(batch, timings) if batch else {}
            action = partial(self._write, batch, results, timings, reports)
        except WorkerStopping:
            action = partial(writing.give_back, claims)
        except DeviceUnavailable as error:
            self._end_with_broken_device(error)
            action = _nothing
        except Exception as error:
            log.exception("batch_not_generated", jobs=len(claims))
            self._writer.note(error)
            action = partial(writing.settle, claims, error)
        except BaseException:
            self.leases.release(claims)  # their leases expire, and another worker gets the jobs
            raise
        return self._writers.submit(self._release_claims, claims, action)

    def _answer_repeats(self, claimed: Claimed) -> list[Job]:
        """Answer jobs whose identical job has succeeded with its images. Return the jobs that must be computed."""
        twins = [job for job in claimed.jobs if job.id in claimed.repeats]
        if not twins:
            return list(claimed.jobs)
        with self.watch.watching(Kind.STORAGE, "stored images", unknown_bound()):
            found = images.find_rows(twins)
            images.sync(image for stored in found.values() for image in stored)
        repeats = [
            Result(job, found[job.id], 0.0, Job.Cache.HIT)
            for job in twins
            if job.id in found and images.answers(job, found[job.id])
        ]
        if repeats:
            self._writer.commit(repeats)
        answered = {repeat.job.id for repeat in repeats}
        return [job for job in claimed.jobs if job.id not in answered]

    def _write(
        self,
        batch: list[Job],
        results: Results,
        timings: Timings,
        reports: Collection[Future[None]],
    ) -> None:
        wait(reports)
        seconds = timings.unet_seconds + timings.decoder_seconds
        self._writer.write(batch, results, device_seconds=seconds)

    def _release_claims(self, claims: list[Claim], action: Callable[[], None]) -> None:
        """Run the final action for these jobs, and release their claims."""
        try:
            action()
        except Exception as error:
            log.exception("batch_not_committed", jobs=len(claims))
            with suppress(Exception):  # their leases then expire
                writing.settle(claims, error)
        finally:
            self.leases.release(claims)

    # --- the end of a faulty process --------------------------------------------------------------
    def _stalled(self, activity: Activity) -> None:
        """Give all jobs back and end the process. Runs in the watch's thread."""
        stalls.report(activity)
        detail = activity.detail
        error = DeviceFailed(detail) if activity.kind == Kind.DEVICE else StorageFailed(detail)
        # If it does not end in time, the leases expire.
        stalls.try_briefly(partial(writing.settle, self.leases.held(), error))
        self._end_process(EXIT_STALLED, Failure.of(error))

    def _end_with_broken_device(self, error: DeviceUnavailable) -> None:
        """Commit the generated images, give the other jobs back and end the process."""
        self.finish()
        held = list(self.leases.held())  # includes an interrupted teacher's batch
        self._release_claims(held, partial(writing.settle, held, error))
        self._end_process(EXIT_DEVICE, Failure.of(error))

    def _end_process(self, code: int, fault: Failure) -> None:
        log.error("worker_ends", code=fault.code, detail=fault.detail, exit_code=code)
        stalls.try_briefly(partial(heartbeat.note_fault, code=fault.code, detail=fault.detail))
        metrics.flush()
        self._exit(code)

    # --- releases ---------------------------------------------------------------------------------
    def read_served(self) -> Served:
        """Read the releases that this worker should load and whose jobs it claims."""
        kind = jobs.wanted_kind(self.queue)
        releases = {one.pk: one for one in wanted() if kind in (None, one.kind)}
        peers = heartbeat.living(self.queue).exclude(name=settings.WORKER_NAME)
        return Served(kind, releases, has_peer=peers.exists())

    def _update_row(self, release: Release | None = None) -> None:
        """Write the loaded releases, the one used last, and the fault to the worker's row, if they changed."""
        if release is not None:
            self._release = release.pk
        self._row.write(RowFacts(self._release, tuple(self.loaded.ids()), self._fault()))

    def _fault(self) -> Failure | None:
        """Return the fault that keeps this worker from taking jobs, or jobs of a release in service."""
        if self.health.fault is not None:
            return self.health.fault
        served = self._served.releases if self._served else {}
        failing = [detail for pk, detail in self.loaded.failing().items() if pk in served]
        return Failure(ReleaseInvalid.code, failing[0]) if failing else None

    # --- in the heartbeat thread ------------------------------------------------------------------
    def tick(self) -> None:
        """Renew leases, load the releases that serve next, send metrics."""
        self._served = self.read_served()
        self.loaded.prepare(list(self._served.releases.values()))
        metrics.flush()
        if self.health.check() or (self.health.is_good and self._stocking.is_wanted()):
            notifications.wake(self.queue)
        self._update_row()
        heartbeat.note_measured(self.measured.stored())
        if self.leases:
            jobs.end_overdue()
            self.leases.renew()

    def is_work_waiting(self, *, only: Collection[int] | None = None) -> bool:
        """Return whether this worker could claim a job. only: pks of releases, None = all."""
        if not self.health.is_good:
            return False
        return jobs.is_work_waiting(
            settings.WORKER_NAME,
            queue=self.queue,
            served=self._served or self.read_served(),
            without=self.loaded.paused(),
            only=only,
        )


def _nothing() -> None:
    """Do nothing, because the jobs have been given back."""
