"""`manage.py backup`: write the database and the data folder to one file."""

import os
import sys
from argparse import ArgumentParser
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import OperationalError
from django.template.defaultfilters import pluralize

from generation.access import audit
from generation.engine import temporary_folders
from project.maintenance import backup
from project.maintenance.archive import Writer
from project.maintenance.errors import MaintenanceError


class Command(BaseCommand):
    help = "Write the database and the files of DATA_DIR to one archive. It can run while everything is in use."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", help="file to write, which must not exist, or - for stdout")
        parser.add_argument(
            "--with-training",
            action="store_true",
            help="include the trained stages of unfinished runs, which otherwise restart after a restoration",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        begun = datetime.now(UTC)
        try:
            if options["file"] == "-":
                written = backup.write(sys.stdout.buffer, with_training=options["with_training"])
                sys.stdout.buffer.flush()
            else:
                written = self._write(Path(options["file"]), with_training=options["with_training"])
            facts = {"files": written.files, "size_bytes": written.size_bytes}
            made_at = begun.isoformat(timespec="seconds")
            audit.record_backup(audit.BACKUP_WRITTEN, options["file"], made_at=made_at, **facts)
        except (MaintenanceError, OSError) as error:
            raise CommandError(str(error)) from error
        except OperationalError as error:
            raise CommandError(f"PostgreSQL does not answer: {str(error).strip()}") from error
        self.stderr.write(
            f"Wrote {written.files} file{pluralize(written.files)}, {written.size_bytes / 2**20:,.1f} MiB. "
            f"Check it: manage.py restore {options['file']} --verify"
        )
        if settings.S3_BUCKET:
            self.stderr.write(
                f"Images are in the bucket {settings.S3_BUCKET} and not in the archive."
            )

    def _write(self, file: Path, *, with_training: bool) -> Writer:
        """Write the file completely or not at all, readable only by its owner: it contains password hashes."""
        if file.exists():
            raise MaintenanceError(f"{file} exists. Name a new file.")
        if file.resolve().is_relative_to(Path(settings.DATA_DIR).resolve()):
            raise MaintenanceError(
                f"{file} is in the data folder, so every later backup would contain it. Name a file elsewhere, or give "
                "- and redirect stdout to a file."
            )
        parent = file.absolute().parent
        if not parent.is_dir():
            raise MaintenanceError(f"{parent} is not a folder. Create it, or mount its disk.")
        with temporary_folders.create(parent) as folder:
            new = folder / "archive"
            with open(new, "wb", opener=lambda path, flags: os.open(path, flags, 0o600)) as out:
                written = backup.write(out, with_training=with_training)
                out.flush()
                os.fsync(out.fileno())
            new.rename(file)
        return written
