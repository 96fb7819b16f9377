"""`manage.py doctor`: examine every dependency and advise what to do."""

import json
from argparse import ArgumentParser
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from django.core.management.base import BaseCommand

from project.maintenance import diagnosis
from project.maintenance.diagnosis import Finding, State

MARKS = {State.OK: "ok", State.WARNING: "WARN", State.FAULT: "FAULT"}


class Command(BaseCommand):
    help = (
        "Examine PostgreSQL, Redis, workers, beat, migrations, disk, clocks, releases and images, and give advice. "
        "The exit status is 1 if there is a fault."
    )
    requires_system_checks: list[str] = []  # they are part of the examination

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="print one JSON object")
        parser.add_argument(
            "--hashes",
            action="store_true",
            help="compare all files of releases with their hashes, which takes longer",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        findings = diagnosis.examine(hashes=options["hashes"])
        seen = list(findings) if options["json"] else list(self._shown(findings))
        is_good = all(finding.state is not State.FAULT for finding in seen)
        if options["json"]:
            found = {"ok": is_good, "findings": [asdict(finding) for finding in seen]}
            self.stdout.write(json.dumps(found, indent=2, ensure_ascii=False))
        else:
            self.stdout.write(self._summary(seen))
        if not is_good:
            raise SystemExit(1)

    def _shown(self, findings: Iterator[Finding]) -> Iterator[Finding]:
        """Print and yield each finding as soon as it is known: an unresponsive server takes seconds."""
        for finding in findings:
            mark = MARKS[finding.state]
            style = {State.OK: self.style.SUCCESS, State.WARNING: self.style.WARNING}
            paint = style.get(finding.state, self.style.ERROR)
            self.stdout.write(f"{paint(f'{mark:<5}')} {finding.part:<11} {finding.detail}")
            if finding.advice:
                self.stdout.write(f"{'':<17} → {finding.advice}")
            self.stdout.flush()
            yield finding

    def _summary(self, seen: list[Finding]) -> str:
        faults = sum(finding.state is State.FAULT for finding in seen)
        warnings = sum(finding.state is State.WARNING for finding in seen)
        if not faults and not warnings:
            return "All is well."
        return f"Faults: {faults}. Warnings: {warnings}."
