"""Backup of an installation: the database first, then the files, so that every row in it has its file."""

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import IO

from django.conf import settings
from django.db import connection
from django.db.migrations.recorder import MigrationRecorder

from generation.engine import temporary_folders
from project.maintenance import archive, programs
from project.maintenance.archive import DATA, DUMP, FACTS, Facts, Writer
from project.maintenance.errors import MaintenanceError

# Folders below the data folder that can be regenerated: thumbnails from images, stages of runs by training.
REGENERATED = ("media/thumbnails", "distillation")
KEPT = ("distillation/reports",)  # exceptions to REGENERATED
OF_THE_DISK = "lost+found"  # a folder of the file system that only root may read


def write(out: IO[bytes], *, with_training: bool) -> Writer:
    """Write an archive and return its writer. with_training: include the stages of runs. Raises MaintenanceError."""
    root = Path(settings.DATA_DIR)
    with temporary_folders.create(root) as folder:
        writer = Writer(out)
        try:
            writer.add_content(FACTS, archive.facts_content(_facts()))
            dump = folder / DUMP
            programs.run(
                "pg_dump", "--format=custom", "--no-owner", "--no-privileges", "--file", dump
            )
            for path in _files(root, with_training=with_training):
                writer.add_file(DATA + path.relative_to(root).as_posix(), path)
            writer.add_file(DUMP, dump)
            writer.close()
        except BaseException:
            writer.abandon()
            raise
    return writer


def _facts() -> Facts:
    applied = MigrationRecorder(connection).applied_migrations()
    return Facts(
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        retort=settings.VERSION,
        postgresql=programs.server_version(),
        migrations=sorted(f"{app}.{name}" for app, name in applied),
        data_dir=str(settings.DATA_DIR),
        has_images=not settings.S3_BUCKET,
    )


def _files(root: Path, *, with_training: bool) -> Iterator[Path]:
    """Yield the files of the data folder that a backup needs, except hidden ones, which are being written.

    Raises MaintenanceError for a folder that cannot be read.
    """
    for folder, names, files in os.walk(root, followlinks=True, onerror=_refuse):
        real = os.path.realpath(folder)
        place = Path(folder).relative_to(root)
        names[:] = sorted(
            name
            for name in names
            if not name.startswith(".")
            and name != OF_THE_DISK
            # A link to a parent folder would never end.
            and not Path(real).is_relative_to(os.path.realpath(Path(folder) / name))
            and _is_wanted(place / name, with_training=with_training)
        )
        if _is_kept(place, with_training=with_training):
            found = (Path(folder) / name for name in sorted(files) if not name.startswith("."))
            yield from (path for path in found if path.is_file())  # no pipes or sockets


def _refuse(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):  # which was removed in the meantime
        raise MaintenanceError(
            f"{error.filename} cannot be read: {error.strerror}. Run the backup as the account of the services."
        )


def _is_wanted(place: Path, *, with_training: bool) -> bool:
    """Return whether the folder is kept or contains a kept one."""
    return _is_kept(place, with_training=with_training) or any(
        PurePosixPath(kept).is_relative_to(place.as_posix()) for kept in KEPT
    )


def _is_kept(place: Path, *, with_training: bool) -> bool:
    left_out = REGENERATED[:1] if with_training else REGENERATED
    return any(place.is_relative_to(kept) for kept in KEPT) or not any(
        place.is_relative_to(folder) for folder in left_out
    )
