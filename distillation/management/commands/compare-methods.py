"""`manage.py compare-methods`: train the methods of the structure stage for the same time, and judge their releases.

Resumes after an interruption if started with the same options.
"""

import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError
from tqdm import tqdm

from distillation.management.options import (
    DistillationCommand,
    add_changes,
    add_judged_teacher,
    required_libraries,
)
from distillation.pipeline import overrides, recipes
from generation.models import Release
from generation.releases import lifecycle as releases

with required_libraries():
    from distillation import folders
    from distillation.method_comparison import report, settings
    from distillation.method_comparison.trainings import Comparison, Outcome
    from distillation.runs import inputs, policy, recipe_descriptions


class Command(DistillationCommand):
    help = (
        "Compare the methods of the structure stage: the same pairs, student, time and seeds, the main weight of each "
        "tuned by the same number of trials, judged as releases against plain squared error. Registers nothing. "
        "Resumes after an interruption if started with the same options."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--methods",
            nargs="+",
            default=[],
            metavar="METHOD",
            help=f"methods to compare, of {', '.join(settings.SETTINGS)}; the first is the baseline, always compared; "
            "default: all",
        )
        parser.add_argument(
            "--seeds", type=int, default=3, help="number of trainings of each method"
        )
        parser.add_argument(
            "--trials",
            type=int,
            default=3,
            help="number of values of the main weight to try for each method",
        )
        parser.add_argument(
            "--minutes",
            type=float,
            required=True,
            help="minutes that each training of the stage structure may take",
        )
        parser.add_argument(
            "--share",
            type=float,
            default=1.0,
            help="share of the recipe's steps that the other stages train for; default: all",
        )
        parser.add_argument(
            "--recipe",
            metavar="NAME|FILE",
            required=True,
            help=f"recipe that all trainings begin from: {', '.join(recipes.RECIPES)}, or a JSON file",
        )
        add_changes(parser)
        parser.add_argument(
            "--with-teacher",
            action="append",
            default=[],
            dest="teachers",
            metavar="RELEASE|FOLDER",
            help="an additional teacher for the method ensemble, which is left out without one; repeatable",
        )
        add_judged_teacher(parser)
        parser.add_argument(
            "--data",
            metavar="DIR",
            type=Path,
            help="folder of the stages; equal stages are shared; default: the folder of distill",
        )

    def work(self, options: dict[str, Any]) -> None:
        if options["seeds"] < 1:
            raise CommandError(f"seeds must be at least 1, not {options['seeds']}.")
        methods = settings.chosen(
            options["methods"],
            trials=options["trials"],
            teachers=[str(_release(given)) for given in options["teachers"]],
        )
        recipe = inputs.recipe_of(recipe_descriptions.described(options["recipe"]))
        recipe = overrides.changed(recipe, overrides.parse(options["changes"]))
        root = (options["data"] or folders.root()).resolve()
        comparison = Comparison(
            recipe,
            inputs.gather(
                policy.named(options["teacher"], Release.Kind.TEACHER),
                within=root,
                detector=options["detector"],
                most_variants=recipe.most_variants,
            ),
            root=root,
            reports=root / "reports",
            minutes=options["minutes"],
            share=options["share"],
        )
        with tqdm(
            total=None, desc=comparison.name, unit="training", disable=options["verbosity"] < 1,
            mininterval=0.5 if sys.stderr.isatty() else 30.0,
        ) as bar:  # fmt: skip

            def show(done: int, total: int, text: str) -> None:
                bar.total, bar.n = total, done
                bar.set_postfix_str(text)

            def after_seed(outcome: Outcome) -> None:
                report.write(comparison, outcome)

            outcome = comparison.run(
                methods, seeds=options["seeds"], show=show, after_seed=after_seed
            )
        self.stdout.write(report.opening(report.lines(outcome.finals)))
        self.stdout.write(f"Report: {comparison.folder / report.REPORT}")


def _release(given: str) -> Path:
    """Return the folder of a release, given as a path or by the release's name."""
    folder = Path(given)
    return folder.resolve() if folder.is_dir() else releases.folder(releases.named(given))
