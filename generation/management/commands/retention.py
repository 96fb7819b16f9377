"""`manage.py retention`: run the nightly sweep of images and files now, or list what it would delete."""

import sys
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import connection
from django.template.defaultfilters import pluralize
from tqdm import tqdm

from generation.errors import GenerationError
from generation.jobs import retention


class Command(BaseCommand):
    help = (
        "Delete images past their retention time (RETENTION_DAYS, or that of the API key), files without an image, "
        "and expired idempotency keys."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--dry-run", action="store_true", help="delete nothing; list what would be deleted"
        )
        parser.add_argument(
            "--all-files",
            action="store_true",
            help="delete files without an image even if they are most of all files",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        is_dry = options["dry_run"]
        connection.ensure_connection()  # fail before the progress bar starts
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
                self.stdout.write(f"{orphan.name} belongs to no image, {orphan.size_bytes} bytes")
        if report.orphans_kept:
            self.stdout.write(
                f"{report.orphans_kept} files belong to no image. They are most of all files, so they are kept: check "
                "that this is the right database, then use --all-files."
            )
        size = sum(orphan.size_bytes for orphan in report.orphans)
        verb = "Would delete" if is_dry else "Deleted"
        jobs, files, keys = report.total.jobs, len(report.orphans), report.idempotency_keys
        self.stdout.write(
            f"{verb} the images of {jobs} job{pluralize(jobs)}, {files} file{pluralize(files)} of {size} bytes without "
            f"an image, and {keys} idempotency key{pluralize(keys)}."
        )
