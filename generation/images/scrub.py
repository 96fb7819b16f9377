"""Slow check of all stored images against the hashes in their names, one folder per hour."""

import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath

import structlog

from generation.errors import StorageFailed
from generation.images import storage, store
from generation.infra import heartbeat, stalls
from generation.models import Image

log = structlog.get_logger(__name__)

FOLDERS = 256  # one per first byte of a hash; checking all takes about eleven days
BYTES_PER_SECOND = 20_000_000


@dataclass
class Report:
    files: int = 0
    unreadable: int = 0  # damaged and removed, or not readable
    missing: int = 0  # files that rows refer to
    restored: int = 0  # missing ones that were made again from the lossless master


def folder_at(now: datetime) -> str:
    """Return the hexadecimal name of the folder to check now."""
    return f"{int(now.timestamp() // 3600) % FOLDERS:02x}"


def scrub(folder: str) -> Report:
    """Check the files of a folder, and restore missing ones of rows from their lossless master. Return the counts."""
    report = Report()
    for name in storage.files_in(f"{storage.IMAGES}/{folder}"):
        if heartbeat.stopping.is_set():
            return report
        if PurePosixPath(name).name.startswith("."):
            continue  # being written
        report.files += 1
        stalls.progressed()
        try:
            time.sleep(len(storage.read(name)) / BYTES_PER_SECOND)
        except StorageFailed as error:
            report.unreadable += 1
            log.warning("image_unreadable", file=name, error=error.detail)
    rows = Image.objects.filter(file__startswith=f"{storage.IMAGES}/{folder}/")
    for image in rows.order_by("file").distinct("file").iterator(chunk_size=1000):
        if heartbeat.stopping.is_set():
            return report
        stalls.progressed()
        if storage.size(image.file) != image.size_bytes:
            report.missing += 1
            report.restored += _restore(image)
    log.info("images_scrubbed", folder=folder, **vars(report))
    return report


def _restore(image: Image) -> bool:
    try:
        store.content(image)
    except StorageFailed as error:
        log.warning("image_unreadable", file=image.file, error=error.detail)
        return False
    return True
