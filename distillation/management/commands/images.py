"""`manage.py images add | list | ingest | judge`: image sources and examples from the shell."""

import sys
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from django.core.management.base import CommandError
from django.db import connection, transaction
from django.db.models import Count, Q
from django.template.defaultfilters import pluralize
from tqdm import tqdm

from distillation.detectors import registry as detectors
from distillation.errors import DistillationRefused
from distillation.examples import lifecycle as examples
from distillation.management.options import DistillationCommand
from distillation.models import Detector, ImageSource
from generation.models import PromptVariant


class Command(DistillationCommand):
    help = "Add image sources, ingest their new images, and have the detector judge them."

    def add_arguments(self, parser: ArgumentParser) -> None:
        commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
        add = commands.add_parser(
            "add", help="add a source; it is read by `ingest` or by the worker"
        )
        add.add_argument("name", metavar="NAME")
        add.add_argument(
            "url",
            metavar="URL",
            help="a folder below IMAGE_SOURCE_ROOTS, or https://…, s3://…, gs://…, abfs://…",
        )
        which = add.add_mutually_exclusive_group()
        which.add_argument(
            "--variants",
            metavar="SLUG,…",
            default="",
            help="variants that all of its images illustrate",
        )
        which.add_argument(
            "--variants-tag", metavar="TAG", help="all active variants with this tag"
        )
        which.add_argument(
            "--each-folder",
            action="store_true",
            help="URL has one folder for each variant, named by its slug: add each as a source NAME-SLUG",
        )
        add.add_argument(
            "--tags",
            metavar="BIT,…",
            default="",
            help="bits that all of its images show, besides the tags of the variants; not-BIT: that none shows",
        )
        commands.add_parser("list", help="list the sources with the number of images")
        ingest = commands.add_parser("ingest", help="read new images, then judge them")
        ingest.add_argument("name", nargs="?", metavar="NAME", help="default: all enabled sources")
        judge = commands.add_parser("judge", help="judge examples without a verdict")
        judge.add_argument(
            "--detector", metavar="NAME", help="detector version; default: the active one"
        )

    def work(self, options: dict[str, Any]) -> None:
        getattr(self, options["command"])(options)

    def add(self, options: dict[str, Any]) -> None:
        if options["each_folder"]:
            self.add_each(options)
            return
        source = examples.add(
            options["name"],
            options["url"],
            tags=_names(options["tags"]),
            variants=_variants(options),
        )
        self.stdout.write(
            f"Added {source.name}. Read it with: manage.py images ingest {source.name}"
        )

    def add_each(self, options: dict[str, Any]) -> None:
        """Add a source for each folder in the source's folder; none if one of them is no variant's."""
        whole = examples.folder_of(options["url"])
        found = whole.iterdir() if whole.is_dir() else ()
        slugs = sorted(
            path.name
            for path in found
            if path.is_dir() and not path.is_symlink() and not path.name.startswith(".")
        )
        if not slugs:
            raise CommandError(
                f"{whole} contains no folder. Make one for each variant, named by its slug."
            )
        with transaction.atomic():
            for variant in _with_slugs(slugs):
                examples.add(
                    f"{options['name']}-{variant.slug}",
                    f"{options['url'].rstrip('/')}/{variant.slug}",
                    tags=_names(options["tags"]),
                    variants=[variant],
                )
        self.stdout.write(
            f"Added {len(slugs)} source{pluralize(len(slugs))}. Read them with: manage.py images ingest"
        )

    def list(self, _options: dict[str, Any]) -> None:
        counted = ImageSource.objects.annotate(
            taken=Count("examples", filter=Q(examples__refusal="")), all=Count("examples")
        )
        for source in counted:
            state = source.error or ("" if source.ingested_at else "not read yet")
            state = state if source.is_enabled else "disabled"
            counts = f"{source.taken} example{pluralize(source.taken)}, {source.all - source.taken} refused"
            self.stdout.write(f"{source.name:<24} {counts}  {source.url}  {state}".rstrip())

    def ingest(self, options: dict[str, Any]) -> None:
        from distillation.examples import ingestion

        failed = []
        for source in _sources(options["name"]):
            try:
                with self._bar(source.name, " files") as on_progress:
                    report = ingestion.ingest(source, on_progress=on_progress)
            except DistillationRefused as error:
                failed.append(source.name)
                self.stderr.write(f"{source.name}: {error.detail}")
            else:
                self.stdout.write(f"{source.name}: {report}")
        self._judge(None)
        if failed:
            raise CommandError(f"Failed: {', '.join(failed)}.")

    def judge(self, options: dict[str, Any]) -> None:
        self._judge(detectors.named(options["detector"]) if options["detector"] else None)

    def _judge(self, given: Detector | None) -> None:
        """Judge with a detector; None = the active version."""
        from distillation.examples import verdicts

        detector = given or detectors.active()
        if detector is None or (given is None and not verdicts.can_judge(detector)):
            self.stdout.write("No suitable detector is active. Decide on the images in the admin.")
            return
        with self._bar(detector.name, " images") as on_progress:
            judged = verdicts.judge(detector, on_progress=on_progress)
        found = detector.verdicts.filter(example__refusal="")
        accepted = found.filter(is_accepted=True).count()
        self.stdout.write(
            f"{detector.name}: judged {judged}; accepted {accepted} of {found.count()}."
        )

    @contextmanager
    def _bar(self, title: str, unit: str) -> Iterator[Any]:
        """Yield a callback for progress: number done, total."""
        connection.ensure_connection()  # fail before the progress bar starts
        with tqdm(total=0, desc=title, unit=unit, file=sys.stderr, leave=False) as bar:

            def show(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            yield show


def _names(given: str) -> list[str]:
    return [name.strip() for name in given.split(",") if name.strip()]


def _variants(options: dict[str, Any]) -> Sequence[PromptVariant]:
    if options["variants_tag"]:
        tagged = PromptVariant.objects.filter(
            tags__contains=[options["variants_tag"]], status=PromptVariant.Status.ACTIVE
        )
        if not tagged:
            raise CommandError(f"No active prompt variant has the tag {options['variants_tag']}.")
        return list(tagged)
    return _with_slugs(_names(options["variants"]))


def _with_slugs(slugs: Sequence[str]) -> Sequence[PromptVariant]:
    found = {variant.slug: variant for variant in PromptVariant.objects.filter(slug__in=slugs)}
    if unknown := [slug for slug in slugs if slug not in found]:
        raise CommandError(f"There is no prompt variant {', '.join(unknown)}.")
    return list(found.values())


def _sources(name: str | None) -> Sequence[ImageSource]:
    if name is None:
        return list(ImageSource.objects.filter(is_enabled=True))
    found = list(ImageSource.objects.filter(name=name))
    if not found:
        raise CommandError(f"There is no source {name}. List them with: manage.py images list")
    return found
