"""Ingestion of a source: new files become examples, or refused ones with the reason.

A file is read if its metadata has changed, decoded if its bytes are new, and kept if it is no near-duplicate of an
example of the same variants.
"""

import hashlib
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

import structlog
from django.db import transaction
from django.db.models import Q
from django.db.models.functions import Now
from django.template.defaultfilters import pluralize
from django.utils import timezone

from distillation.errors import DistillationRefused
from distillation.examples import decoding, sources
from distillation.examples import lifecycle as examples
from distillation.examples.decoding import Crop, Refused
from distillation.examples.duplicates import KnownHashes
from distillation.examples.sources import File, FileTooLarge, Place, PlaceUnusable
from distillation.models import Example, ImageSource
from generation.errors import GenerationError
from generation.images import references, storage
from generation.infra import stalls
from generation.models import Release
from generation.releases import lifecycle as releases

log = structlog.get_logger(__name__)

LEASE = timedelta(minutes=10)  # the slowest file takes a minute or two
RENEW_SECONDS = 60.0
INTERRUPTED = "The process that read it has ended. Request ingestion again."
# Fields written by ingestion. The others belong to people, who may decide while a source is read.
INGESTED_FIELDS = (
    "location",
    "stamps",
    "sha256",
    "perceptual_hash",
    "file",
    "side",
    "width",
    "height",
    "refusal",
    "refusal_detail",
)


@dataclass
class Report:
    """taken: new examples; unchanged: files whose bytes are known; refused: number by code."""

    files: int = 0
    read: int = 0
    taken: int = 0
    unchanged: int = 0
    refused: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        parts = [
            f"{self.files} file{pluralize(self.files)}",
            f"{self.taken} taken",
            f"{self.unchanged} unchanged",
        ]
        parts += [f"{count} {code}" for code, count in sorted(self.refused.items())]
        return ", ".join(parts)


def ingest(
    source: ImageSource,
    *,
    on_progress: Callable[[int, int], object] = lambda done, total: None,
    is_over: Callable[[], bool] = lambda: False,
) -> Report:
    """Ingest new files. on_progress: called with files done and total. is_over: checked before each folder and file.

    Raises DistillationRefused if the source cannot be read or is being read; StorageFailed. Its row has the reason.
    """
    if not _lease(source):
        raise DistillationRefused(f"The source {source.name} is being read by another process.")
    lease = _Lease(source, is_over)
    error = "An unexpected error occurred; see the log."
    try:
        report = _read(source, on_progress, lease)
        error = ""
    except GenerationError as refused:
        error = refused.detail
        log.warning("image_source_unusable", source=source.name, error=error)
        raise
    finally:
        row = ImageSource.objects.filter(pk=source.pk)
        row.update(lease_expires_at=None, error=error[:500])
        if lease.has_ended:
            # A later request takes precedence.
            row.filter(asked_at=None).update(asked_at=source.asked_at)
    if not lease.has_ended:
        row.update(ingested_at=timezone.now())
    log.info("image_source_read", source=source.name, report=str(report))
    return report


def _lease(source: ImageSource) -> bool:
    """Take the lease and the request: a source that ends its process is not read again and again."""
    free = Q(lease_expires_at__isnull=True) | Q(lease_expires_at__lt=Now())
    rows = ImageSource.objects.filter(free, pk=source.pk)
    if not rows.update(lease_expires_at=Now() + LEASE, error=INTERRUPTED):
        return False
    # A request during the run is kept for the next time.
    ImageSource.objects.filter(pk=source.pk, asked_at=source.asked_at).update(asked_at=None)
    return True


class _Lease:
    """The lease of a source that is being read. Calling it renews the lease and returns whether to stop reading."""

    def __init__(self, source: ImageSource, is_over: Callable[[], bool]) -> None:
        self._row = ImageSource.objects.filter(pk=source.pk)
        self._is_over = is_over
        self._renewed = time.monotonic()
        self.has_ended = False  # it stays so: a partial listing must not count as a complete one

    def __call__(self) -> bool:
        stalls.progressed()
        if time.monotonic() - self._renewed > RENEW_SECONDS:
            self._renewed = time.monotonic()
            self._row.update(lease_expires_at=Now() + LEASE)
        self.has_ended = self.has_ended or self._is_over()
        return self.has_ended


def side() -> int:
    """Return the side of a crop: the active teacher's image size. Raises DistillationRefused."""
    try:
        teacher = releases.named(Release.Kind.TEACHER)
    except GenerationError as error:
        raise DistillationRefused(
            f"The size of crops is the active teacher's. {error.detail}"
        ) from error
    return min(teacher.image_sizes[0])


def _read(
    source: ImageSource,
    on_progress: Callable[[int, int], object],
    lease: _Lease,
) -> Report:
    try:
        place = sources.open_place(source.url, examples.rules())
        files = place.files(is_over=lease)
    except PlaceUnusable as error:
        raise DistillationRefused(str(error)) from error
    ingest = _Ingest(source, place, side())
    for done, file in enumerate(files, start=1):
        if lease():
            break
        ingest.take(file)
        on_progress(done, len(files))
    return ingest.report


class _Ingest:
    """One pass over a source."""

    def __init__(self, source: ImageSource, place: Place, side: int) -> None:
        self.report = Report()
        self._source, self._place, self._side = source, place, side
        own = list(Example.objects.filter(source=source))
        self._by_sha256 = {row.sha256: row for row in own if row.sha256}
        self._at = {location: row for row in own for location in row.stamps}
        self._hashes = KnownHashes(source)

    def take(self, file: File) -> None:
        self.report.files += 1
        known = self._at.get(file.location)
        try:
            file = self._place.described(file)
            if known is not None and self._is_unchanged(known, file):
                self.report.unchanged += 1
                return
            content = self._place.read(file, most=decoding.MAX_BYTES)
        except FileTooLarge:
            size = "" if file.size_bytes is None else f"{file.size_bytes} bytes; "
            detail = f"{size}at most {decoding.MAX_BYTES} bytes are read."
            self._keep(file, known, "", refused=Refused("too_large", detail))
            return
        except OSError as error:
            self._keep_unreadable(file, known, str(error))
            return
        self.report.read += 1
        self._take_bytes(file, known, content)

    def _keep_unreadable(self, file: File, known: Example | None, why: str) -> None:
        """Record a file that could not be read. No stamp is kept, so it is tried again; a known example is kept."""
        if known is not None and known.sha256:
            self.report.refused["unreadable"] += 1
        else:
            self._keep(file, known, "", refused=Refused("unreadable", why), stamp="")

    def _is_unchanged(self, known: Example, file: File) -> bool:
        same = file.stamp and known.stamps[file.location] == file.stamp
        return bool(same) and known.side == self._side

    def _take_bytes(self, file: File, known: Example | None, content: bytes) -> None:
        sha256 = hashlib.sha256(content).hexdigest()
        same = self._by_sha256.get(sha256)
        if same is not None and same.side == self._side:
            self.report.unchanged += 1
            self._note(file, known, same, file.stamp)
            return
        try:
            crop = decoding.decode(content, side=self._side)
            self._hashes.check(crop, ignored=same)
        except Refused as refused:
            self._keep(file, known, sha256, refused=refused)
        else:
            self._keep(file, known, sha256, crop=crop)

    def _keep(
        self,
        file: File,
        known: Example | None,
        sha256: str,
        *,
        crop: Crop | None = None,
        refused: Refused | None = None,
        stamp: str | None = None,
    ) -> None:
        """Store a row for these bytes, or for this location if they could not be read."""
        unread = known if known is not None and not known.sha256 and not sha256 else None
        row = self._by_sha256.get(sha256) or unread or Example(source=self._source, sha256=sha256)
        row.location = row.location or file.location[:1000]
        row.side = self._side
        if refused is not None:
            self.report.refused[refused.code] += 1
            row.refusal, row.refusal_detail = refused.code, sources.readable(refused.detail)[:500]
            row.width, row.height = refused.width, refused.height
            row.file = row.perceptual_hash = ""
        elif crop is not None:
            self.report.taken += 1
            row.refusal = row.refusal_detail = ""
            row.width, row.height = crop.width, crop.height
            row.file = storage.save(crop.png, "png").name
            row.perceptual_hash = crop.perceptual_hash
        with transaction.atomic():
            if crop is not None:
                # A job's image may have the same content and be removed concurrently.
                references.hold([row.file])
                storage.keep(row.file, crop.png)
            self._note(file, known, row, file.stamp if stamp is None else stamp)
        if sha256:
            self._by_sha256[sha256] = row
        if row.perceptual_hash:
            self._hashes.add(row)

    def _note(self, file: File, known: Example | None, row: Example, stamp: str) -> None:
        """Record that these bytes are now at this location."""
        if known is not None and known is not row:
            known.stamps.pop(file.location, None)
            if known.sha256 or known.stamps:
                # The row remains an example, though the file at the location is another one now.
                known.save(update_fields=["stamps"])
            else:
                known.delete()
        row.stamps[file.location] = stamp
        row.save(update_fields=INGESTED_FIELDS if row.pk else None)
        self._at[file.location] = row
