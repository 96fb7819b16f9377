"""`manage.py catalogue import | export | encode | status | cluster`: the catalogue from the shell."""

import sys
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import connection
from django.template.defaultfilters import pluralize
from tqdm import tqdm

from generation.catalogue import file_formats, import_export, unknown_words
from generation.catalogue import variants as catalogue
from generation.catalogue.unknown_words import Vocabulary
from generation.errors import GenerationError
from generation.infra import notifications
from generation.models import PromptVariant
from generation.releases import lifecycle as releases

SHOWN_ERRORS = 50


class Command(BaseCommand):
    help = "Import, export and encode the prompt catalogue, show the state of its embeddings, or tag parts of it."

    def add_arguments(self, parser: ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        importing = actions.add_parser(
            "import",
            help="import variants from a CSV or JSON file, in one transaction",
            description=f"Columns: {', '.join(file_formats.COLUMNS)}. A missing slug is made from the text. "
            f"A file has {file_formats.LIMITS}.",
        )
        importing.add_argument("file", type=Path)
        importing.add_argument("--dry-run", action="store_true", help="validate only")
        importing.add_argument(
            "--new-revisions",
            action="store_true",
            help="allow new texts for variants that have images",
        )
        exporting = actions.add_parser("export", help="write the catalogue to a CSV or JSON file")
        exporting.add_argument("file", type=Path)
        encoding = actions.add_parser(
            "encode", help="compute the missing embeddings in this process"
        )
        encoding.add_argument(
            "--publish", action="store_true", help="let the encode worker compute them"
        )
        encoding.add_argument(
            "--again",
            action="store_true",
            help="also recompute failed and damaged embeddings",
        )
        actions.add_parser("status", help="count the variants by embedding state")

        clustering = actions.add_parser(
            "cluster",
            help="tag parts of the catalogue with similar texts, for specialists",
            description="K-means of the embeddings of active prompt variants. The tags part-1, part-2, … replace those "
            "of an earlier call; part-1 is the largest part. Then train with --tags part-1.",
        )
        clustering.add_argument("--parts", type=int, required=True, metavar="N")
        clustering.add_argument("--dry-run", action="store_true", help="only show the parts")

    def handle(self, *args: Any, **options: Any) -> None:
        actions: dict[str, Callable[..., None]] = {
            "import": self.import_file,
            "export": self.export_file,
            "encode": self.encode,
            "status": self.status,
            "cluster": self.cluster,
        }
        try:
            actions[options["action"]](options)
        except GenerationError as error:
            raise CommandError(error.detail) from error

    def import_file(self, options: dict) -> None:
        dataset = import_export.read(options["file"])
        with self._bar(len(dataset), "Rows") as bar:
            report = import_export.import_dataset(
                dataset,
                dry_run=options["dry_run"],
                new_revisions=options["new_revisions"],
                on_progress=bar.update,
            )
        if report.errors:
            for error in report.errors[:SHOWN_ERRORS]:
                self.stderr.write(f"row {error.row}: {error.message}")
            if len(report.errors) > SHOWN_ERRORS:
                self.stderr.write(f"… and {len(report.errors) - SHOWN_ERRORS} more.")
            raise CommandError(
                f"Nothing was imported: {(count := len(report.errors))} error{pluralize(count)}. Correct the file."
            )
        done = "Dry run:" if options["dry_run"] else "Done:"
        self.stdout.write(
            f"{done} {report.new} new, {report.updated} updated, {report.unchanged} unchanged "
            f"({report.seconds:.1f} s)."
        )
        if unknown := Vocabulary().count(str(text or "") for text in dataset["text"]):
            self.stdout.write(unknown_words.sentence(unknown))

    def export_file(self, options: dict) -> None:
        count = import_export.export_file(options["file"])
        self.stdout.write(f"{count} prompt variant{pluralize(count)} written to {options['file']}.")

    def encode(self, options: dict) -> None:
        if options["again"]:
            marked = catalogue.encode_again(PromptVariant.objects.all())
            self.stdout.write(f"{marked} embedding{pluralize(marked)} will be encoded again.")
        if options["publish"]:
            notifications.encode()
            self.stdout.write("The encode worker was notified.")
            return
        from generation.catalogue import encoding

        waiting = sum(
            catalogue.missing(fingerprint).count() for fingerprint in catalogue.fingerprints()
        )
        with self._bar(waiting, "Variants") as bar:
            remaining = encoding.encode_missing(on_progress=bar.update)
        self.status(options)
        if remaining:
            raise CommandError(
                f"{remaining} embedding{pluralize(remaining, ' is,s are')} still missing."
            )

    def status(self, options: dict) -> None:
        holders = {
            release.encoder_fingerprint: f"of {release.name}"
            for release in releases.encoders_in_use()
        }
        encoders = catalogue.fingerprints()
        if not encoders:
            self.stdout.write("No text encoder is in use. Register a release first.")
        for fingerprint in encoders:
            self.stdout.write(
                f"encoder {fingerprint[:12]} ({holders.get(fingerprint, 'not on this machine')}): "
                f"{catalogue.missing(fingerprint).count()} missing"
            )
        for state, count in catalogue.count_states().items():
            self.stdout.write(f"{state}: {count}")

    def cluster(self, options: dict) -> None:
        from generation.catalogue import clusters  # loads torch, for the text encoder

        parts = clusters.find(options["parts"])
        for part in parts:
            count = len(part.variants)
            tags = ", ".join(f"{tag} ({here} of {total})" for tag, here, total in part.tags)
            shown = f"Tags: {tags or 'none'}. In the middle: {'; '.join(part.texts)}."
            self.stdout.write(f"{part.name}: {count} prompt variant{pluralize(count)}. {shown}")
        if options["dry_run"]:
            self.stdout.write("Dry run: no tag was changed.")
            return
        changed = clusters.write(parts)
        self.stdout.write(f"{changed} prompt variant{pluralize(changed)} changed.")

    def _bar(self, total: int, unit: str) -> tqdm:
        connection.ensure_connection()  # fail before the progress bar starts
        return tqdm(
            total=total, unit=f" {unit.lower()}", desc=unit, file=sys.stderr, disable=total == 0
        )
