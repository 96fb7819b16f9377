"""`manage.py run`: start, watch and control distillation runs. The distillation worker executes them."""

import time
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError
from django.template.defaultfilters import filesizeformat, pluralize
from tqdm import tqdm

from distillation.management.options import DistillationCommand, add_changes
from distillation.models import Run
from distillation.runs import cleaning, plans, policy, recipe_descriptions
from distillation.runs import lifecycle as runs

STEER = {"pause": runs.pause, "resume": runs.resume, "cancel": runs.cancel}
LOOK_SECONDS = 1.0


class Command(DistillationCommand):
    help = "Distillation runs: start, consider, list, watch, pause, resume, cancel, clean."

    def add_arguments(self, parser: ArgumentParser) -> None:
        commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
        start = commands.add_parser("start", help="start a run now, regardless of the schedule")
        start.add_argument(
            "--recipe",
            metavar="NAME|FILE",
            help="name of a recipe, or a JSON file of changes to one; default: DISTILLATION_RECIPE",
        )
        add_changes(start)
        start.add_argument(
            "--anew",
            action="store_true",
            help="derive a student from the teacher instead of continuing from the active student",
        )
        start.add_argument(
            "--tags",
            nargs="+",
            default=[],
            help="make a specialist for prompt variants with one of these tags",
        )
        start.add_argument(
            "--policy", choices=Run.Policy.values, help="default: the setting PROMOTION"
        )
        start.add_argument(
            "--dry-run", action="store_true", help="print the plan of the run without starting it"
        )
        commands.add_parser("consider", help="decide whether to start a run, as the schedule does")
        commands.add_parser("list", help="list the latest runs")
        clean = commands.add_parser(
            "clean", help="delete the folders of stages that no run needs, as the schedule does"
        )
        clean.add_argument(
            "--dry-run", action="store_true", help="list the folders, and delete none"
        )
        clean.add_argument(
            "--keep",
            type=int,
            default=cleaning.KEPT_RUNS,
            metavar="N",
            help="finished runs whose folders are kept; default: %(default)s",
        )
        for name, help in (
            ("watch", "show the progress until it finishes"),
            ("pause", "stop after the current step; resume continues from there"),
            ("resume", "continue a paused or failed run"),
            ("cancel", "stop permanently"),
        ):
            command = commands.add_parser(name, help=help)
            command.add_argument(
                "name", nargs="?", help="name of the run; default: the latest", metavar="NAME"
            )

    def work(self, options: dict[str, Any]) -> None:
        if options["command"] in STEER:
            run = STEER[options["command"]](_find(options["name"]))
            self.stdout.write(f"{run.name} is {run.status} ({run.percent:.0f} %).")
        elif options["command"] == "watch":
            self.watch(_find(options["name"]))
        else:
            getattr(self, options["command"])(options)

    def start(self, options: dict[str, Any]) -> None:
        given = {
            "recipe": _recipe(options),
            "is_warm": not options["anew"],
            "policy": options["policy"],
            "tags": options["tags"],
        }
        if options["dry_run"]:
            self.say_plan(plans.plan(**given))
            return
        run = policy.start(**given)
        self.stdout.write(f"{run.name} is {run.status}. Watch it: manage.py run watch")

    def say_plan(self, plan: plans.Plan) -> None:
        self.stdout.write(f"Would start: {plan.sentence}")
        if plan.named:
            self.stdout.write(f"  new or changed: {plan.named}")
        self.stdout.write(f"  {plan.time}")
        for obstacle in (*plan.unfit, *plan.obstacles):
            self.stdout.write(f"  obstacle: {obstacle}")

    def consider(self, _options: dict[str, Any]) -> None:
        decision = policy.consider()
        self.stdout.write(f"Started: {decision.run}." if decision.run else "Nothing started.")
        for reason in decision.reasons:
            self.stdout.write(f"  {reason}")

    def list(self, _options: dict[str, Any]) -> None:
        for run in Run.objects.all()[:20]:
            outcome = "" if run.outcome == Run.Outcome.PENDING else f", {run.outcome}"
            self.stdout.write(
                f"{run.name:<28} {run.status:<10} {run.percent:5.1f} %  {run.stage:<11} "
                f"{run.token} slice{pluralize(run.token)}{outcome}"
            )

    def clean(self, options: dict[str, Any]) -> None:
        if options["keep"] < 0:
            raise CommandError("--keep must be at least 0.")
        found = cleaning.clean(kept_runs=options["keep"], is_dry=options["dry_run"])
        for removed in found:
            files = f" ({removed.files} file{pluralize(removed.files)})" if removed.files else ""
            size = filesizeformat(removed.size_bytes).replace("\xa0", " ")
            self.stdout.write(f"{size:>10}  {removed.place}{files}: {removed.why}")
        total = filesizeformat(sum(removed.size_bytes for removed in found)).replace("\xa0", " ")
        done = "would be deleted" if options["dry_run"] else "deleted"
        self.stdout.write(f"{total} {done}." if found else "Nothing to delete.")

    def watch(self, run: Run) -> None:
        with tqdm(
            total=100, unit="%", file=self.stderr, bar_format="{desc} {bar} {n:.1f} %"
        ) as bar:
            while run.is_open:
                bar.set_description_str(f"{run.name} {run.status} {run.stage}")
                bar.update(run.percent - bar.n)
                time.sleep(LOOK_SECONDS)
                run.refresh_from_db()
            bar.update(run.percent - bar.n)
        state = f"{run.name} {run.status}"
        if run.status == Run.Status.FAILED:
            raise CommandError(f"{state}: {run.error_detail}")
        self.stdout.write(f"{state}, {run.outcome}.")
        for check in run.checks:
            if not check["passed"]:
                self.stdout.write(f"  not passed: {check['name']} {check['detail']}")


def _recipe(options: dict[str, Any]) -> dict[str, Any]:
    """Return the recipe, validated here so that a wrong field is reported at once."""
    from distillation.design import descriptions
    from distillation.pipeline import overrides
    from distillation.runs import inputs  # loads torch, which the other actions do not need

    recipe = recipe_descriptions.described(options["recipe"] or settings.DISTILLATION_RECIPE)
    recipe = descriptions.merged(recipe, overrides.parse(options["changes"]))
    inputs.recipe_of(recipe)
    return recipe


def _find(name: str | None) -> Run:
    rows = Run.objects.filter(name=name) if name else Run.objects.all()
    run = rows.first()
    if run is None:
        raise CommandError(f"There is no run {name}." if name else "There is no run yet.")
    return run
