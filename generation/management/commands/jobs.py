"""`manage.py jobs retry`: queue failed jobs again."""

from argparse import ArgumentParser, ArgumentTypeError
from datetime import datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.template.defaultfilters import pluralize
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from generation.jobs import retrying


def moment(text: str) -> datetime:
    try:
        found = parse_datetime(text) or parse_datetime(f"{text}T00:00")
    except ValueError:
        found = None
    if found is None:
        raise ArgumentTypeError(f"{text!r}: give a date and a time, such as 2026-01-31T03:00")
    return timezone.make_aware(found) if timezone.is_naive(found) else found


class Command(BaseCommand):
    help = "Queue failed jobs again."

    def add_arguments(self, parser: ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        retry = actions.add_parser(
            "retry",
            help="queue all failed jobs that match the options again",
            description="Each job gets all its attempts again. Jobs whose images were deleted are skipped.",
        )
        retry.add_argument("--code", default="", help="error code, such as worker_lost")
        retry.add_argument(
            "--since",
            type=moment,
            metavar="TIME",
            help="only jobs that failed at this time or later",
        )
        retry.add_argument(
            "--until", type=moment, metavar="TIME", help="only jobs that failed before this time"
        )
        retry.add_argument("--release", default="", metavar="NAME")
        retry.add_argument("--owner", default="", metavar="USERNAME")
        retry.add_argument(
            "--all",
            action="store_true",
            help="retry all failed jobs; required without --code and --since",
        )
        retry.add_argument(
            "--dry-run", action="store_true", help="print the number of jobs, and retry none"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if not (options["all"] or options["code"] or options["since"]):
            raise CommandError("Give --code or --since, or --all for every failed job.")
        count = retrying.retry_failed(
            code=options["code"],
            since=options["since"],
            until=options["until"],
            release=options["release"],
            owner=options["owner"],
            is_dry_run=options["dry_run"],
        )
        what = "would be" if options["dry_run"] else pluralize(count, "is,are")
        self.stdout.write(f"{count} job{pluralize(count)} {what} queued again.")
