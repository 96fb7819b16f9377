"""Faults of the image storage: missing, full, or with damaged files."""

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
    """A full disk: the running workers can write only a kilobyte of each file."""

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


@dataclass
class FilesDamaged(Fault):
    """Image files that are truncated or partly overwritten; at the end the scrub checks their folders."""

    _names: list[str] = field(default_factory=list, repr=False)

    def begin(self, site: Site) -> None:
        rows = site.postgres.query(
            "SELECT file FROM generation_image WHERE file <> master GROUP BY file ORDER BY min(created_at) LIMIT 20"
        )
        self._names = [name for (name,) in rows]
        for number, name in enumerate(self._names):
            path = site.media / name
            with suppress(FileNotFoundError):  # its job was deleted meanwhile
                content = path.read_bytes()
                half = len(content) // 2
                end = bytes(len(content) - half) if number % 2 else b""
                path.write_bytes(content[:half] + end)

    def end(self, site: Site) -> None:
        folders = sorted({name.split("/")[1] for name in self._names})
        scrub = (
            f"from generation.images import scrub; [scrub.scrub(folder) for folder in {folders}]"
        )
        site.stack.manage("shell", "-c", scrub)

    def took_effect(self, site: Site) -> bool:
        return bool(self._names)
