"""`manage.py design`: search for a student within limits of size, time, memory and quality.

Resumes after an interruption if started with the same options, and continues if given more hours. Several processes
with the same options work on one search.
"""

import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError
from tqdm import tqdm

from distillation.design import files
from distillation.design import limits as limiting
from distillation.designs import briefs
from distillation.designs import lifecycle as designs
from distillation.management.options import (
    DistillationCommand,
    add_changes,
    add_judged_teacher,
    required_libraries,
)
from distillation.models import Design
from distillation.pipeline import overrides
from distillation.resumable.progress import SliceOver
from distillation.runs import recipe_descriptions

with required_libraries():
    from distillation.designs import execution
    from distillation.runs import inputs
    from distillation.training import loop


class Command(DistillationCommand):
    refusals = (*DistillationCommand.refusals, limiting.LimitRefused)
    help = (
        "Search for a student within limits: measure candidates, distil them in short rungs, draw the Pareto front "
        "and write the recipe of the choice. Resumes after an interruption if started with the same options."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--size", default="", help="largest size of the release, such as 8MB")
        parser.add_argument(
            "--time", default="", help="longest time of one picture on a device, such as 12ms@cpu"
        )
        parser.add_argument(
            "--memory",
            default="",
            help="largest memory of the process (on a GPU, of the device), such as 500MB",
        )
        parser.add_argument(
            "--quality",
            default="",
            help="lowest quality (right pictures, student ÷ teacher), such as 0.97",
        )
        parser.add_argument(
            "--wish",
            choices=limiting.WISHES,
            default=limiting.BEST,
            help="which of the students within the limits to choose; default: %(default)s",
        )
        parser.add_argument(
            "--hours", type=float, required=True, help="hours that the search may work"
        )
        parser.add_argument(
            "--candidates",
            type=int,
            default=0,
            help="largest number of candidates; default: as many as the hours allow",
        )
        parser.add_argument(
            "--student",
            help="a student release to compare with; default: the active one, if it covers the catalogue",
        )
        parser.add_argument(
            "--tags", nargs="+", default=[], help="only prompt variants with one of these tags"
        )
        parser.add_argument(
            "--recipe",
            metavar="NAME|FILE",
            help="recipe that the candidates vary, with structure, regression and joint, such as starter-1step, or a "
            "JSON file; default: DISTILLATION_RECIPE",
        )
        add_changes(parser)
        add_judged_teacher(parser)

    def work(self, options: dict[str, Any]) -> None:
        design = self.row(options)
        try:
            ladder = execution.prepare(design, detector=options["detector"])
        except Exception:
            designs.forget(design)
            raise
        design = designs.join(design, settings.WORKER_NAME, hours=options["hours"])
        if design.status == Design.Status.RUNNING:
            with loop.signals() as stopped, self.bar(design, options["verbosity"] > 0) as bar:

                def show(spent: float, text: str) -> None:
                    bar.update(min(round(spent), bar.total) - bar.n)
                    bar.set_postfix_str(text, refresh=False)

                try:
                    execution.execute(
                        design,
                        ladder,
                        is_stopped=lambda: bool(stopped),
                        show=show,
                        say=lambda text: self.say(bar, text),
                    )
                except SliceOver:
                    if Design.objects.get(pk=design.pk).is_open:
                        designs.leave(design)
                        raise SystemExit(self.stopped(design, stopped)) from None
                    # Another process or a person has ended it.
                except BaseException as error:
                    if isinstance(error, Exception):
                        designs.fail(design, str(error) or repr(error))
                    designs.leave(design)
                    raise
        self.result(Design.objects.get(pk=design.pk))

    def row(self, options: dict[str, Any]) -> Design:
        """Return the row of the design with these options, a new one if there is none."""
        brief = briefs.of(
            size=options["size"],
            time=options["time"],
            memory=options["memory"],
            quality=options["quality"],
            wish=options["wish"],
            hours=options["hours"],
            recipe=recipe_descriptions.described(options["recipe"]) if options["recipe"] else None,
            changes=overrides.parse(options["changes"]),
            teacher=options["teacher"] or "",
            student=options["student"] or "",
            tags=options["tags"],
            most_candidates=options["candidates"],
            judges=[options["detector"]],
        )
        inputs.recipe_of(brief.recipe)  # refuses an unknown field before there is a row
        return designs.resumed_or_created(brief)

    @contextmanager
    def bar(self, design: Design, is_shown: bool) -> Iterator[tqdm]:
        total = max(1, round(design.hours * 3600))
        with tqdm(
            total=total, initial=min(total, round(design.seconds)), desc=design.name, unit="s",
            disable=not is_shown, mininterval=0.5 if sys.stderr.isatty() else 30.0,
        ) as bar:  # fmt: skip
            yield bar

    def say(self, bar: tqdm, text: str) -> None:
        bar.clear()
        self.stderr.write(text, lambda plain: plain)  # progress, not an error: no red

    def stopped(self, design: Design, signals: list[int]) -> int:
        self.stderr.write(
            f"Stopped. The same command continues {design.name}.", lambda plain: plain
        )
        return 128 + signals[0] if signals else 1

    def result(self, design: Design) -> None:
        if design.status != Design.Status.SUCCEEDED:
            raise CommandError(f"{design.name} is {design.status}. {design.error_detail}".strip())
        self.stdout.write(design.reason)
        self.stdout.write(f"Report: {designs.output(design) / files.REPORT}")
        if design.choice is not None:
            recipe = designs.output(design) / files.RECIPE
            self.stdout.write(f"Distil it with: manage.py distill --recipe {recipe}")
