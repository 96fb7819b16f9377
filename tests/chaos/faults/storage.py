"""A storage of images that is gone or full."""

import resource
from contextlib import suppress
from dataclasses import dataclass, field

import psutil

from tests.chaos.faults.fault import Fault
from tests.chaos.faults.processes import GENERATION
from tests.chaos.stack import Site


@dataclass
class StorageGone(Fault):
    """An unmounted disk: neither reads nor writes of images work."""

    def begin(self, site: Site) -> None:
        images = site.media / "images"
        images.rename(site.media / "images-elsewhere")
        images.write_text("no folder")

    def end(self, site: Site) -> None:
        images = site.media / "images"
        images.unlink()
        (site.media / "images-elsewhere").rename(images)


@dataclass
class StorageFull(Fault):
    """A disk that takes a kilobyte of each file, for the workers that run."""

    _pids: list[int] = field(default_factory=list, repr=False)

    def begin(self, site: Site) -> None:
        self._pids = [site.stack.pid(name) for name in (*GENERATION, "web")]
        self._limit(1000)

    def end(self, site: Site) -> None:
        self._limit(resource.RLIM_INFINITY)

    def _limit(self, most: int) -> None:
        for pid in self._pids:
            with suppress(psutil.Error):
                process = psutil.Process(pid)
                _, hard = process.rlimit(psutil.RLIMIT_FSIZE)
                process.rlimit(psutil.RLIMIT_FSIZE, (most, hard))
