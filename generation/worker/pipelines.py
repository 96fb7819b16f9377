"""LRU cache of pipelines: the releases that a worker process holds ready on its device.

What will be served next is loaded and warmed in a thread of its own, so that a new release causes no pause. If that
fails, for lack of memory or of files, it is loaded for its first job; then, while memory is short, those used longest
ago leave. One that cannot be loaded for a job, such as on a host that cannot read its files, is tried again after
growing pauses; until then its jobs are left to other workers.
"""

import random
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from django.conf import settings

from generation.engine import pipeline, selftest
from generation.engine.errors import OutOfMemory, ReleaseInvalid
from generation.engine.pipeline import Pipeline
from generation.models import Release
from generation.releases import activation
from generation.releases import lifecycle as releases

log = structlog.get_logger(__name__)

SPECIALIST = Release.Status.SPECIALIST
FIRST_PAUSE_SECONDS = 5.0  # before a release that could not be loaded is tried again
LONGEST_PAUSE_SECONDS = 300.0


@dataclass(frozen=True)
class Failing:
    """A release that cannot be loaded here. retry_at: monotonic time from which its jobs are taken again."""

    detail: str
    tries: int
    retry_at: float

    @classmethod
    def after(cls, before: "Failing | None", error: Exception) -> "Failing":
        tries = before.tries + 1 if before else 1
        pause = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(tries - 1, 10))
        return cls(str(error), tries, time.monotonic() + random.uniform(pause / 2, pause))


class Loaded:
    """Holds at most LOADED_RELEASES pipelines, and one more for each specialist in service; the least recently used
    one is dropped first."""

    def __init__(self) -> None:
        self._pipelines: OrderedDict[int, Pipeline] = OrderedDict()
        self._unprepared: set[int] = (
            set()
        )  # could not be prepared; they are loaded for their first job
        self._failing: dict[int, Failing] = {}  # could not be loaded for a job
        self._guard = threading.Lock()  # of the attributes above and below
        self._loader: threading.Thread | None = None
        self._loading: int | None = None
        self._specialists = 0  # in service, when `prepare` was called last

    def ids(self) -> list[int]:
        with self._guard:
            return sorted(self._pipelines)

    def of_kind(self, kind: str) -> list[int]:
        """Return the pks of the loaded releases of this kind."""
        with self._guard:
            return [pk for pk, found in self._pipelines.items() if found.manifest.kind == kind]

    def clear(self) -> None:
        """For tests."""
        self._wait_for(None)
        self._pipelines.clear()
        self._unprepared.clear()
        self._failing.clear()

    def failing(self) -> dict[int, str]:
        """Return why releases could not be loaded for a job, by pk."""
        with self._guard:
            return {pk: failing.detail for pk, failing in self._failing.items()}

    def paused(self) -> list[int]:
        """Return the pks of failing releases that are not tried again yet."""
        now = time.monotonic()
        with self._guard:
            return [pk for pk, failing in self._failing.items() if now < failing.retry_at]

    def get(self, release: Release) -> Pipeline:
        """Return the release's pipeline, loaded now if it is not ready. Raises what `pipeline.load` raises."""
        self._wait_for(release.pk)
        with self._guard:
            found = self._pipelines.get(release.pk)
            if found is not None:
                self._pipelines.move_to_end(release.pk)
                return found
            self._make_room()  # before it is loaded: both at once may be too much
        try:
            loaded = self._load_with_room(release)
        except ReleaseInvalid as error:
            with self._guard:
                self._failing[release.pk] = Failing.after(self._failing.get(release.pk), error)
            raise
        with self._guard:
            self._failing.pop(release.pk, None)
            self._pipelines[release.pk] = loaded
        return loaded

    def _load_with_room(self, release: Release) -> Pipeline:
        """Load the release; while the device has too little memory, drop the least recently used pipeline."""
        while True:
            try:
                return self._load(release, threads=settings.TORCH_THREADS)
            except OutOfMemory as error:
                with self._guard:
                    if not self._pipelines:
                        raise ReleaseInvalid(error.detail) from error
                    _, dropped = self._pipelines.popitem(last=False)
                log.warning("release_dropped", release=dropped.manifest.name, by=release.name)
                del dropped  # before the next try

    def any(self) -> list[Pipeline]:
        """Return the loaded pipelines, those used last first."""
        with self._guard:
            return list(reversed(self._pipelines.values()))

    def prepare(self, wanted: Sequence[Release]) -> None:
        """Start loading the first of these that is missing, unless another one is being loaded. Returns at once."""
        paused = self.paused()
        with self._guard:
            self._specialists = sum(release.status == SPECIALIST for release in wanted)
            missing = [
                release
                for release in wanted
                if release.pk not in self._pipelines
                and release.pk not in self._unprepared
                and release.pk not in paused
            ]
            if self._loading is not None or not missing or not self._has_room(wanted):
                return
            self._loading = missing[0].pk
            self._loader = threading.Thread(
                target=self._prepare, args=(missing[0],), name="loader", daemon=True
            )
        self._loader.start()

    def _has_room(self, wanted: Sequence[Release]) -> bool:
        """Return whether there is room for one more, after dropping one that is not wanted if needed."""
        if len(self._pipelines) < self._places():
            return True
        names = {release.pk for release in wanted}
        spare = next((pk for pk in self._pipelines if pk not in names), None)
        if spare is not None:
            del self._pipelines[spare]
        return spare is not None

    def _prepare(self, release: Release) -> None:
        try:
            loaded = self._load(release, threads=1)  # the others generate
            selftest.run(loaded)  # also the first call, which chooses kernels and lays out weights
            with self._guard:
                self._pipelines[release.pk] = loaded
                self._pipelines.move_to_end(release.pk, last=False)
                self._failing.pop(release.pk, None)
        except Exception as error:
            log.warning("release_not_prepared", release=release.name, error=str(error))
            with self._guard:
                if before := self._failing.get(release.pk):
                    self._failing[release.pk] = Failing.after(before, error)
                else:
                    self._unprepared.add(release.pk)
        finally:
            self._loading = None

    def _load(self, release: Release, *, threads: int) -> Pipeline:
        started = time.monotonic()
        loaded = pipeline.load(
            releases.folder(release),
            device=settings.DEVICE,
            dtype=settings.DTYPE,
            threads=threads,
            runtime=settings.RUNTIME,
            generating_threads=settings.TORCH_THREADS,
            cache=settings.RUNTIMES_DIR,
        )
        log.info(
            "release_loaded",
            release=release.name,
            seconds=round(time.monotonic() - started, 2),
            device=loaded.describe(),
        )
        return loaded

    def _make_room(self) -> None:
        while len(self._pipelines) >= self._places():
            self._pipelines.popitem(last=False)

    def _places(self) -> int:
        return settings.LOADED_RELEASES + self._specialists

    def _wait_for(self, pk: int | None) -> None:
        """Return when the release, or any if None, is no longer being loaded."""
        loader = self._loader
        if loader is not None and (pk is None or self._loading == pk):
            loader.join()


def wanted() -> list[Release]:
    """Return what a worker should hold ready: releases in service, and those being activated."""
    found = [*releases.in_service(), *activation.prepared()]
    return list({release.pk: release for release in found}.values())
