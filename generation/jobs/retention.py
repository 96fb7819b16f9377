"""Retention: permanent removal of images of one job or of old jobs, and of unreferenced files.

Rows are deleted first, in the transaction that marks the job, then the files that no row refers to. After an
interruption the next sweep finds the rest.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

import structlog
from django.conf import settings
from django.contrib.auth import get_user_model
from django.db import transaction
from django.db.models import Q, QuerySet
from django.db.models.functions import Now

from generation.images import references, storage
from generation.images import store as images
from generation.images.references import Removed
from generation.infra import database, stalls
from generation.jobs import erasure, idempotency, stock, variant_images
from generation.jobs import lifecycle as jobs
from generation.jobs.erasure import Erased
from generation.models import APIKey, Image, Job, PurgedImage
from generation.webhooks import endpoints as webhooks

log = structlog.get_logger(__name__)

BATCH = 200  # jobs in one transaction
FILES = 1000  # names per query
ORPHAN_AGE = timedelta(days=1)  # minimum, since a file is written before its row
# More orphans than this, if they are more than half of all files, suggest a wrong database: they are kept.
FEW_ORPHANS = 20
MAX_DAYS = 36_500


@dataclass
class Tally:
    """Numbers of jobs, images, files and bytes removed for one owner."""

    jobs: int = 0
    images: int = 0
    files: int = 0
    size_bytes: int = 0


@dataclass
class Report:
    """Result of a sweep or dry run. owners: tallies by name; orphans: unreferenced files."""

    owners: dict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))
    orphans: list[Removed] = field(default_factory=list)
    orphans_kept: int = 0
    idempotency_keys: int = 0

    @property
    def total(self) -> Tally:
        parts = self.owners.values()
        return Tally(
            sum(part.jobs for part in parts),
            sum(part.images for part in parts),
            sum(part.files for part in parts),
            sum(part.size_bytes for part in parts),
        )


# --- one job --------------------------------------------------------------------------------------
def purge(job_id: UUID) -> None:
    """Remove the job's images and the client's words permanently; cancel it if it has not ended. Idempotent.

    Files that images of other jobs refer to stay.
    """
    with transaction.atomic(durable=True):
        job = Job.objects.select_for_update().get(id=job_id)
        jobs.cancel(job_id)
        rows, erased = _remove_rows([job_id])
    erasure.finish(erased)
    removed = references.remove(_files(rows, is_dry=False))
    if job.purged_at is None:
        log.info("job_purged", job_id=str(job_id), images=len(rows), files=len(removed))


def remove_images(job_id: UUID, image_ids: Collection[UUID]) -> int:
    """Remove these images of the job permanently, and purge the job if none is left. Return their number."""
    with transaction.atomic(durable=True):
        Job.objects.select_for_update().get(id=job_id)
        kept = Image.objects.filter(job_id=job_id).exclude(id__in=image_ids).exists()
        rows = list(Image.objects.filter(job_id=job_id, id__in=image_ids))
        if kept:
            _delete(rows)
    if rows and not kept:
        purge(job_id)
    elif rows:
        removed = references.remove(_files(rows, is_dry=False))
        log.info("images_removed", job_id=str(job_id), images=len(rows), files=len(removed))
    return len(rows)


def _remove_rows(job_ids: Sequence[UUID]) -> tuple[list[Image], Erased]:
    """Delete the image rows of these ended, locked jobs, and erase their clients' words.

    Return the deleted images, and the remaining work after the commit.
    """
    rows = list(Image.objects.filter(job_id__in=job_ids))
    _delete(rows)
    Job.objects.filter(id__in=job_ids, purged_at__isnull=True).update(purged_at=Now())
    return rows, erasure.erase(job_ids)


def _delete(rows: Sequence[Image]) -> None:
    PurgedImage.objects.bulk_create(PurgedImage(id=row.id, job_id=row.job_id) for row in rows)
    Image.objects.filter(id__in=[row.id for row in rows]).delete()


def _files(rows: Sequence[Image], *, is_dry: bool) -> dict[str, Image]:
    """Return the files of these images, including renderings in the cache, and remove the images from the cache."""
    found = {name: row for row in rows for name in (row.file, row.master)}
    row_of = {row.key: row for row in rows}
    cached = images.cached(row_of.keys())
    if not is_dry:
        images.forget(cached)
    return {image.file: row_of[image.key] for image in cached} | found


# --- the sweep ------------------------------------------------------------------------------------
def sweep(
    *,
    is_dry: bool = False,
    all_files: bool = False,
    now: datetime | None = None,
    on_progress: Callable[[int, int], object] = lambda done, total: None,
) -> Report:
    """Purge due jobs, and remove unreferenced files and old idempotency keys. Any process may call it at any time.

    is_dry: only report. all_files: remove unreferenced files even if they are most of all files. on_progress: called
    with the number of processed jobs and the total.
    """
    now = database.now() if now is None else now
    report = Report()
    _sweep_jobs(report, now, is_dry=is_dry, on_progress=on_progress)
    if not is_dry:
        _erase_leftovers()
        stock.remove_spoiled()
        variant_images.remove_outdated()
    report.idempotency_keys = idempotency.old().count() if is_dry else idempotency.forget_old()
    _sweep_files(report, now, is_dry=is_dry, all_files=all_files)
    if not is_dry:
        total = report.total
        log.info(
            "images_swept",
            jobs=total.jobs,
            images=total.images,
            files=total.files,
            orphans=len(report.orphans),
            freed_bytes=total.size_bytes + sum(one.size_bytes for one in report.orphans),
        )
    return report


def due(now: datetime) -> QuerySet[Job]:
    """Return the jobs whose retention time is over."""
    own_days: dict[int, list[int]] = defaultdict(list)
    for pk, days in APIKey.objects.values_list("pk", "retention_days"):
        if days is not None:
            own_days[min(days, MAX_DAYS)].append(pk)
    wanted = Q()
    cutoffs = []
    for days, keys in own_days.items():
        if days:
            cutoffs.append(now - timedelta(days=days))
            wanted |= Q(api_key__in=keys, finished_at__lt=cutoffs[-1])
    if settings.RETENTION_DAYS:
        cutoffs.append(now - timedelta(days=settings.RETENTION_DAYS))
        others = ~Q(api_key__in=[pk for keys in own_days.values() for pk in keys])
        wanted |= others & Q(finished_at__lt=cutoffs[-1])
    if not cutoffs:
        return Job.objects.none()
    return Job.objects.filter(wanted, purged_at__isnull=True, finished_at__lt=max(cutoffs))


def _sweep_jobs(
    report: Report, now: datetime, *, is_dry: bool, on_progress: Callable[[int, int], object]
) -> None:
    jobs_due = due(now)
    total, done = jobs_due.count(), 0
    users = dict(get_user_model().objects.values_list("pk", "username"))
    after: tuple[datetime, UUID] | None = None
    while True:
        with transaction.atomic(durable=True):
            batch = _next(jobs_due, after, is_locked=not is_dry)
            job_ids = [job.id for job in batch]
            if is_dry:
                rows, erased = list(Image.objects.filter(job_id__in=job_ids)), Erased()
            else:
                rows, erased = _remove_rows(job_ids)
        erasure.finish(erased)
        if not batch:
            return
        last = batch[-1]
        assert last.finished_at is not None
        after = last.finished_at, last.id
        files = _files(rows, is_dry=is_dry)
        until = jobs_due.filter(_until(*after))
        removed = _removable(files, without=until) if is_dry else references.remove(files)
        owner_of = {job.id: users[job.owner_id] for job in batch}
        _count(
            report, owner_of, rows, {name: owner_of[files[name].job_id] for name in files}, removed
        )
        done += len(batch)
        stalls.progressed()
        on_progress(done, max(done, total))


def _next(
    jobs_due: QuerySet[Job], after: tuple[datetime, UUID] | None, *, is_locked: bool
) -> list[Job]:
    rows = jobs_due.order_by("finished_at", "id").only("id", "owner_id", "finished_at")
    if after is not None:
        rows = rows.filter(~_until(*after), finished_at__gte=after[0])
    if is_locked:
        rows = rows.select_for_update(skip_locked=True)  # skip jobs that another process purges
    return list(rows[:BATCH])


def _until(finished_at: datetime, job_id: UUID) -> Q:
    return Q(finished_at__lt=finished_at) | Q(finished_at=finished_at, id__lte=job_id)


def _count(
    report: Report,
    owner_of: Mapping[UUID, str],
    rows: Sequence[Image],
    owner_of_file: Mapping[str, str],
    removed: Sequence[Removed],
) -> None:
    for owner in owner_of.values():
        report.owners[owner].jobs += 1
    for row in rows:
        report.owners[owner_of[row.job_id]].images += 1
    small = {storage.thumbnail_name(name): owner for name, owner in owner_of_file.items()}
    for one in removed:
        tally = report.owners[owner_of_file.get(one.name) or small[one.name]]
        tally.files += 1
        tally.size_bytes += one.size_bytes


def _removable(names: Collection[str], *, without: QuerySet[Job]) -> list[Removed]:
    """Return the files that `references.remove` would remove after a purge of these jobs."""
    used = references.in_use(sorted(names), without=without)
    return references.sizes(references.with_thumbnails(set(names) - used))


def _erase_leftovers() -> None:
    """Erase words that older code or an interruption left in purged jobs."""
    while job_ids := erasure.leftovers():
        with transaction.atomic(durable=True):
            locked = Job.objects.select_for_update().filter(id__in=job_ids).order_by("id")
            erased = erasure.erase([job.id for job in locked.only("id")])
        erasure.finish(erased)
        stalls.progressed()
    webhooks.forget_unused()


# --- files that no row refers to ------------------------------------------------------------------
def _sweep_files(report: Report, now: datetime, *, is_dry: bool, all_files: bool) -> None:
    old, total = [], 0
    for names in storage.folders():
        total += len(names)
        for start in range(0, len(names), FILES):
            old += _orphans(names[start : start + FILES], now)
            stalls.progressed()
    if len(old) > max(FEW_ORPHANS, total / 2) and not all_files:
        report.orphans_kept = len(old)
        log.warning("orphans_kept", orphans=len(old), files=total)
        return
    report.orphans = references.sizes(old) if is_dry else references.remove(old)


def _orphans(names: Sequence[str], now: datetime) -> list[str]:
    """Return the unreferenced files that are older than ORPHAN_AGE."""
    source = {name: storage.source_name(name) for name in names}
    used = references.in_use(sorted(set(source.values())))
    loose = [name for name in names if source[name] not in used]
    changed = storage.at_once(storage.modified_at, loose)
    return [
        name
        for name, at in zip(loose, changed, strict=True)
        if at is not None and at < now - ORPHAN_AGE
    ]
