"""`manage.py restore`: restore or verify an archive of `manage.py backup`."""

import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import OperationalError, ProgrammingError
from django.template.defaultfilters import pluralize

from project.maintenance import restoration
from project.maintenance.archive import Facts
from project.maintenance.errors import MaintenanceError


class Command(BaseCommand):
    help = "Restore a backup into an empty database and the data folder. Stop all processes first."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", help="archive that `manage.py backup` wrote, or - for stdin")
        parser.add_argument(
            "--verify",
            action="store_true",
            help="compare every file of the archive with its hash, and change nothing",
        )
        parser.add_argument(
            "--replace",
            action="store_true",
            help="remove the present content of the database, without confirmation",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        is_stdin = options["file"] == "-"
        try:
            with sys.stdin.buffer if is_stdin else Path(options["file"]).open("rb") as source:
                if options["verify"]:
                    self._say(restoration.verify(source), "is complete and undamaged")
                    return
                outcome = restoration.restore(source, replace=options["replace"])
        except (MaintenanceError, OSError) as error:
            raise CommandError(str(error)) from error
        except (OperationalError, ProgrammingError) as error:
            raise CommandError(f"PostgreSQL refused: {str(error).strip()}") from error
        self._say(outcome.facts, "is restored")
        self.stdout.write(
            f"{outcome.files} file{pluralize(outcome.files)}, {outcome.images} image{pluralize(outcome.images)}, "
            f"{outcome.releases} release{pluralize(outcome.releases)}. "
            "Now migrate and start everything: make run, or manage.py bootstrap."
        )
        if outcome.faults:
            raise CommandError("\n".join(outcome.faults), returncode=3)

    def _say(self, facts: Facts, what: str) -> None:
        self.stdout.write(
            f"The backup of {facts.made_at} (Retort {facts.retort}, PostgreSQL {facts.postgresql}) {what}."
        )
