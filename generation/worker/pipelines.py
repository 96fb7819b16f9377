"""LRU cache of pipelines: the releases that a worker process holds ready on its device.

What will be served next is loaded and warmed in a thread of its own, so that a new release causes no pause. If that
fails, for lack of memory or of files, it is loaded for its first job.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Sequence

import structlog
from django.conf import settings
from django.db import connection

from generation.engine import pipeline
from generation.engine.pipeline import Pipeline
from generation.engine.request import GenerationRequest
from generation.models import Embedding, Release
from generation.releases import lifecycle as releases

log = structlog.get_logger(__name__)


class Loaded:
    """Holds at most LOADED_RELEASES pipelines; the least recently used one is dropped first."""

    def __init__(self) -> None:
        self._pipelines: OrderedDict[int, Pipeline] = OrderedDict()
        self._refused: set[int] = set()  # could not be prepared; their first job fails
        self._guard = threading.Lock()  # of the attributes above and below
        self._loader: threading.Thread | None = None
        self._loading: int | None = None

    def ids(self) -> list[int]:
        with self._guard:
            return sorted(self._pipelines)

    def clear(self) -> None:
        """For tests."""
        self._wait_for(None)
        self._pipelines.clear()
        self._refused.clear()

    def get(self, release: Release) -> Pipeline:
        """Return the release's pipeline, loaded now if it is not ready. Raises what `pipeline.load` raises."""
        self._wait_for(release.pk)
        with self._guard:
            found = self._pipelines.get(release.pk)
            if found is not None:
                self._pipelines.move_to_end(release.pk)
                return found
            self._make_room()  # before it is loaded: both at once may be too much
        loaded = self._load(release, threads=settings.TORCH_THREADS)
        with self._guard:
            self._pipelines[release.pk] = loaded
        return loaded

    def prepare(self, wanted: Sequence[Release]) -> None:
        """Start loading the first of these that is missing, unless another one is being loaded. Returns at once."""
        with self._guard:
            missing = [
                release
                for release in wanted
                if release.pk not in self._pipelines and release.pk not in self._refused
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
        if len(self._pipelines) < settings.LOADED_RELEASES:
            return True
        names = {release.pk for release in wanted}
        spare = next((pk for pk in self._pipelines if pk not in names), None)
        if spare is not None:
            del self._pipelines[spare]
        return spare is not None

    def _prepare(self, release: Release) -> None:
        try:
            loaded = self._load(release, threads=1)  # the others generate
            self._warm(release, loaded)
            with self._guard:
                self._pipelines[release.pk] = loaded
                self._pipelines.move_to_end(release.pk, last=False)
        except Exception as error:
            log.warning("release_not_prepared", release=release.name, error=str(error))
            self._refused.add(release.pk)
        finally:
            self._loading = None
            connection.close()

    def _warm(self, release: Release, loaded: Pipeline) -> None:
        """Generate one image: the first call chooses kernels and lays out weights."""
        row = Embedding.objects.filter(
            encoder_fingerprint=release.encoder_fingerprint, error=""
        ).first()
        if row is not None:
            loaded.generate([GenerationRequest(row.stored(), 0, *release.image_sizes[0])])

    def _load(self, release: Release, *, threads: int) -> Pipeline:
        started = time.monotonic()
        loaded = pipeline.load(
            releases.folder(release), device=settings.DEVICE, dtype=settings.DTYPE, threads=threads
        )
        log.info(
            "release_loaded",
            release=release.name,
            seconds=round(time.monotonic() - started, 2),
            device=loaded.describe(),
        )
        return loaded

    def _make_room(self) -> None:
        while len(self._pipelines) >= settings.LOADED_RELEASES:
            self._pipelines.popitem(last=False)

    def _wait_for(self, pk: int | None) -> None:
        """Return when the release, or any if None, is no longer being loaded."""
        loader = self._loader
        if loader is not None and (pk is None or self._loading == pk):
            loader.join()


def wanted() -> list[Release]:
    """Return what a worker should hold ready: active releases, the canary, and those being activated."""
    found = [*releases.in_service(), *releases.prepared()]
    return list({release.pk: release for release in found}.values())
