"""Generation worker: the process that holds a device, takes batches of jobs and commits their images."""

import gc
from collections import deque
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial

import structlog
from django.conf import settings

from generation.engine.device import use_threads
from generation.engine.pipeline import Pipeline
from generation.engine.request import Timings
from generation.images import store as images
from generation.infra import heartbeat, metrics, notifications
from generation.infra.watchdog import Watchdog
from generation.jobs import claiming, completion
from generation.jobs import lifecycle as jobs
from generation.jobs.claiming import Claimed
from generation.jobs.completion import Result
from generation.jobs.lifecycle import Claim, Served
from generation.models import Job, Release
from generation.worker import writing
from generation.worker.generating import Generator, Results, WorkerStopping
from generation.worker.leases import Leases
from generation.worker.pipelines import Loaded, wanted

log = structlog.get_logger(__name__)

UNCOMMITTED_BATCHES = 2  # batches whose files may be written while the device runs the next


class GenerationWorker:
    """The loop of one process. queue: whose messages it consumes, "generation" or "reference".

    The main thread claims and generates, two threads write files and commit, one reports claims, and the heartbeat
    thread renews leases and loads what is served next.
    """

    def __init__(self, queue: str = "generation") -> None:
        self.queue = queue
        self.loaded = Loaded()
        self.leases = Leases()
        self._generator = Generator(self.pipeline, self.leases)
        self._writers = ThreadPoolExecutor(
            UNCOMMITTED_BATCHES, thread_name_prefix="writer", initializer=partial(use_threads, 1)
        )
        self._reporter = ThreadPoolExecutor(1, thread_name_prefix="reporter")
        self._writing: deque[Future[None]] = deque()
        self._served: Served | None = None  # as of the last tick
        self._row: tuple[int | None, list[int]] = (None, [])  # release and loaded, as in the row

    # --- the process ------------------------------------------------------------------------------
    def begin(self) -> None:
        """Load what is served, begin the heartbeat, and look for jobs."""
        use_threads(settings.TORCH_THREADS)
        release = next(iter(self.look().releases.values()), None)
        loaded = self.loaded.get(release) if release else None
        metrics.keep_back()
        watchdog = Watchdog(
            is_work_waiting=self.is_work_waiting, send=partial(notifications.wake, self.queue)
        )

        def tick() -> None:
            self.tick()
            watchdog.check()

        device = loaded.describe() if loaded else ""
        heartbeat.begin(self.queue, device=device, release=release, tick=tick)
        self._row = (release.pk if release else None, [])
        self._update_row()
        # What is loaded now stays: a full collection that looks through torch again stops everything for tens of
        # milliseconds.
        gc.collect()
        gc.freeze()
        notifications.wake(self.queue)

    def finish(self) -> None:
        """Return when all that was generated is committed."""
        wait(self._writing)

    def end(self) -> None:
        """Commit what was generated, and end the threads."""
        self.finish()
        for threads in (self._writers, self._reporter):
            threads.shutdown()
        metrics.flush()

    def serve(self) -> None:
        """Generate batches until no job is left or the process should stop. Files may still be written afterwards."""
        notifications.received(self.queue)
        has_more = True
        while has_more and not heartbeat.stopping.is_set():
            claimed, reports = self._claim()
            if not claimed.jobs:
                break
            has_more = claimed.has_more
            if has_more:
                notifications.wake(self.queue)  # for another worker, which may be idle
            self._writing.append(self.run_batch(claimed, reports))
            while len(self._writing) >= UNCOMMITTED_BATCHES:
                wait([self._writing.popleft()])

    def _claim(self) -> tuple[Claimed, list[Future[None]]]:
        """Return a batch, and the threads' work of reporting the claim."""
        reports: list[Future[None]] = []

        def report(action: Callable[[], None]) -> None:
            reports.append(self._reporter.submit(action))

        claimed = writing.patiently(
            lambda: jobs.claim(
                settings.WORKER_NAME, queue=self.queue, served=self._served, tell=report
            )
        )
        return claimed, reports

    def run_batch(self, claimed: Claimed, reports: Collection[Future[None]] = ()) -> "Future[None]":
        """Generate, then hand the pixels to a writer thread. reports: what must be done before the end is reported."""
        claims = [Claim.of(job) for job in claimed.jobs]
        self.leases.add(claims)
        try:
            batch = _answer_repeats(claimed)
            timings = Timings()
            results = self._generator.generate(batch, timings) if batch else {}
        except WorkerStopping:
            return self._writers.submit(self._release, claims, partial(writing.give_back, claims))
        except BaseException:
            self.leases.release(claims)  # they run out, and another worker gets the jobs
            raise
        return self._writers.submit(
            self._release, claims, partial(self._write, batch, results, timings, reports)
        )

    def _write(
        self,
        batch: list[Job],
        results: Results,
        timings: Timings,
        reports: Collection[Future[None]],
    ) -> None:
        wait(reports)
        seconds = timings.unet_seconds + timings.decoder_seconds
        writing.write(batch, results, device_seconds=seconds, leases=self.leases)

    def _release(self, claims: list[Claim], action: Callable[[], None]) -> None:
        """Do the last thing for these jobs, and hold them no longer."""
        try:
            action()
        except Exception:
            log.exception("batch_not_committed", jobs=len(claims))
        finally:
            self.leases.release(claims)

    # --- releases ---------------------------------------------------------------------------------
    def pipeline(self, release: Release) -> Pipeline:
        """Return the release's pipeline, loaded now if it is not ready."""
        loaded = self.loaded.get(release)
        self._update_row(release)
        return loaded

    def look(self) -> Served:
        """Return what this worker should hold ready, and of which releases it takes jobs."""
        kind = jobs.wanted_kind(self.queue)
        return Served(kind, {one.pk: one for one in wanted() if kind in (None, one.kind)})

    def _update_row(self, release: Release | None = None) -> None:
        """Write which releases are ready here, and which one was used last, if that changed."""
        facts = (release.pk if release else self._row[0], self.loaded.ids())
        if facts != self._row:
            self._row = facts
            heartbeat.note_loaded(release_id=facts[0], loaded=facts[1])

    # --- in the heartbeat thread ------------------------------------------------------------------
    def tick(self) -> None:
        """Renew leases, load what is served next, send metrics."""
        self._served = self.look()
        self.loaded.prepare(list(self._served.releases.values()))
        metrics.flush()
        self._update_row()
        if self.leases:
            jobs.end_overdue()
            self.leases.renew()

    def is_work_waiting(self) -> bool:
        """Return whether this worker could claim a job."""
        return claiming.oldest(jobs.wanted_kind(self.queue)) is not None


def _answer_repeats(claimed: Claimed) -> list[Job]:
    """Return what must be computed: a job submitted while an identical one was being committed finds its images."""
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
        writing.patiently(lambda: completion.commit(repeats))
    answered = {repeat.job.id for repeat in repeats}
    return [job for job in claimed.jobs if job.id not in answered]
