"""LRU cache of pipelines: the releases that a worker process has loaded on its device.

A separate thread loads and warms up releases that serve next, so that a new release causes no pause. If that fails (too
little memory, missing files), the release is loaded for its first job, after dropping the least recently used ones if
memory is short. If that fails too, it is retried after growing pauses; until then its jobs are left to other workers.
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
FIRST_PAUSE_SECONDS = 5.0  # before a release that could not be loaded is retried
MAX_PAUSE_SECONDS = 300.0


@dataclass(frozen=True)
class Failing:
    """A release that cannot be loaded here. retry_at: monotonic time from which its jobs are claimed again."""

    detail: str
    tries: int
    retry_at: float

    @classmethod
    def after(cls, before: "Failing | None", error: Exception) -> "Failing":
        tries = before.tries + 1 if before else 1
        pause = min(MAX_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(tries - 1, 10))
        return cls(str(error), tries, time.monotonic() + random.uniform(pause / 2, pause))


class Loaded:
    """Keeps at most LOADED_RELEASES pipelines, plus one per specialist in service. The least recently used one is
    dropped first."""

    def __init__(self) -> None:
        self._pipelines: OrderedDict[int, Pipeline] = OrderedDict()
        self._unprepared: set[int] = (
            set()
        )  # could not be prepared, and are loaded for their first job
        self._failing: dict[int, Failing] = {}  # could not be loaded for a job
        self._guard = threading.Lock()  # for all attributes
        self._loader: threading.Thread | None = None
        self._loading: int | None = None
        self._specialists = 0  # number in service at the last call of `prepare`

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
        """Return pk → error of releases that could not be loaded for a job."""
        with self._guard:
            return {pk: failing.detail for pk, failing in self._failing.items()}

    def paused(self) -> list[int]:
        """Return the pks of failing releases that are not retried yet."""
        now = time.monotonic()
        with self._guard:
            return [pk for pk, failing in self._failing.items() if now < failing.retry_at]

    def get(self, release: Release) -> Pipeline:
        """Return the release's pipeline; load it if necessary. Raises the same as `pipeline.load`."""
        self._wait_for(release.pk)
        with self._guard:
            found = self._pipelines.get(release.pk)
            if found is not None:
                self._pipelines.move_to_end(release.pk)
                return found
            self._make_room()  # before loading, since memory may not suffice for both
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
                del dropped  # free its memory before the next try

    def any(self) -> list[Pipeline]:
        """Return the loaded pipelines, most recently used first."""
        with self._guard:
            return list(reversed(self._pipelines.values()))

    def prepare(self, wanted: Sequence[Release]) -> None:
        """Start loading the first missing one of these, unless another one is being loaded. Does not wait."""
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
        """Return whether one more pipeline may be loaded. Drop one that is not wanted if necessary."""
        if len(self._pipelines) < self._places():
            return True
        names = {release.pk for release in wanted}
        spare = next((pk for pk in self._pipelines if pk not in names), None)
        if spare is not None:
            del self._pipelines[spare]
        return spare is not None

    def _prepare(self, release: Release) -> None:
        try:
            loaded = self._load(release, threads=1)  # the other CPU threads generate
            selftest.run(loaded)  # the first call also selects kernels and lays out weights
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
        """Wait until the release, or any release if None, is no longer being loaded."""
        loader = self._loader
        if loader is not None and (pk is None or self._loading == pk):
            loader.join()


def wanted() -> list[Release]:
    """Return the releases that a worker should load: those in service and prepared ones."""
    found = [*releases.in_service(), *activation.prepared()]
    return list({release.pk: release for release in found}.values())
