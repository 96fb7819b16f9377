"""`manage.py retention`: remove now what the nightly sweep would remove, or only say what that is."""

import sys
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import connection
from tqdm import tqdm

from generation.errors import GenerationError
from generation.jobs import retention


class Command(BaseCommand):
    help = (
        "Remove images that have been kept long enough (RETENTION_DAYS, or the days of an API key), files that no "
        "image refers to, and idempotency keys that have served their time."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--dry-run", action="store_true", help="remove nothing; list what would be"
        )
        parser.add_argument(
            "--all-files",
            action="store_true",
            help="remove files that no image refers to even if they are most of all files",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        is_dry = options["dry_run"]
        connection.ensure_connection()  # its failure should not tear the bar
        with tqdm(total=0, desc="Images", unit=" jobs", file=sys.stderr, leave=False) as bar:

            def show(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            try:
                report = retention.sweep(
                    is_dry=is_dry, all_files=options["all_files"], on_progress=show
                )
            except GenerationError as error:
                raise CommandError(error.detail) from error
        self._say(report, is_dry=is_dry)

    def _say(self, report: retention.Report, *, is_dry: bool) -> None:
        if report.owners:
            self.stdout.write(f"{'owner':<24} {'jobs':>9} {'images':>9} {'files':>9} {'bytes':>15}")
            for owner, tally in [*sorted(report.owners.items()), ("all", report.total)]:
                self.stdout.write(
                    f"{owner:<24} {tally.jobs:>9} {tally.images:>9} {tally.files:>9} {tally.size_bytes:>15}"
                )
        if is_dry:
            for orphan in report.orphans:
                self.stdout.write(f"no image refers to {orphan.name}, {orphan.size_bytes} bytes")
        if report.orphans_kept:
            self.stdout.write(
                f"No image refers to {report.orphans_kept} files, most of all, so they are kept: is this the database "
                "that belongs to them? If it is: --all-files."
            )
        size = sum(orphan.size_bytes for orphan in report.orphans)
        verb = "Would remove" if is_dry else "Removed"
        self.stdout.write(
            f"{verb} the images of {report.total.jobs} jobs, {len(report.orphans)} files of {size} bytes that no "
            f"image refers to, and {report.idempotency_keys} idempotency keys."
        )
