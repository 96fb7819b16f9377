"""`manage.py queues list | pause | drain | resume`: queues of jobs from the shell."""

import getpass
import time
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.template.defaultfilters import pluralize
from django.utils.formats import date_format

from generation.jobs import pausing
from generation.jobs.pausing import QueueState

POLL_SECONDS = 0.5


class Command(BaseCommand):
    help = "List, pause, drain or resume queues of jobs."

    def add_arguments(self, parser: ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        actions.add_parser("list", help="show the state of each queue")
        for action, text in (
            ("pause", "stop workers from claiming jobs of a queue; new jobs are accepted and wait"),
            ("drain", "pause a queue and wait until its running jobs have ended"),
            ("resume", "let workers claim jobs of a queue again"),
        ):
            one = actions.add_parser(action, help=text)
            one.add_argument("name", choices=pausing.NAMES)
            if action != "resume":
                one.add_argument("--reason", default="", help="note for other operators")
            if action == "drain":
                one.add_argument(
                    "--timeout",
                    type=float,
                    default=600.0,
                    metavar="SECONDS",
                    help="maximum wait in seconds; default: 600",
                )

    def handle(self, *args: Any, **options: Any) -> None:
        getattr(self, options["action"])(options)

    def list(self, options: dict[str, Any]) -> None:
        for state in pausing.states():
            self._show(state)

    def pause(self, options: dict[str, Any]) -> None:
        by = getpass.getuser()
        self._show(pausing.pause(options["name"], by=by, reason=options["reason"]))

    def drain(self, options: dict[str, Any]) -> None:
        ends = time.monotonic() + options["timeout"]
        state = pausing.pause(options["name"], by=getpass.getuser(), reason=options["reason"])
        while state.running:
            if time.monotonic() > ends:
                raise CommandError(
                    f"{state.running} job{pluralize(state.running, ' still runs,s still run')}. The queue stays "
                    "paused: run drain again, or resume it."
                )
            time.sleep(POLL_SECONDS)
            state = pausing.state(state.name)
        self._show(state)

    def resume(self, options: dict[str, Any]) -> None:
        self._show(pausing.resume(options["name"]))

    def _show(self, state: QueueState) -> None:
        workers = f"{state.workers} worker{pluralize(state.workers)}"
        facts = f"{state.queued} queued, {state.running} running, {workers}"
        why = (
            f" since {date_format(state.paused_at, 'DATETIME_FORMAT')} by {state.paused_by}"
            if state.paused_at
            else ""
        )
        reason = f" ({state.reason})" if state.reason else ""
        self.stdout.write(f"{state.name}: {state.status}{why}{reason}, {facts}")
