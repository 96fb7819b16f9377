"""`manage.py distill`: train a student from a teacher and the active catalogue, and register the release.

Resumes after an interruption if started with the same options. `accelerate launch` trains with several processes.
"""

import json
from argparse import ArgumentParser
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError

from distillation.management.options import (
    DistillationCommand,
    add_changes,
    add_judged_teacher,
    required_libraries,
)
from distillation.pipeline import overrides, recipes
from distillation.resumable import stages
from distillation.resumable.stages import Status
from distillation.training import processes
from generation.models import Release
from generation.releases import lifecycle as releases
from generation.releases import specialists

with required_libraries():
    from distillation import folders
    from distillation.pipeline.acceptance import GATE, GATE_FILE, RELEASE
    from distillation.pipeline.stages import Chain
    from distillation.reports import evaluations, explanation, prompt_changes, prompt_quality
    from distillation.runs import inputs, policy, recipe_descriptions

Kind = Release.Kind


class Command(DistillationCommand):
    help = (
        "Distil a student for the active catalogue from a teacher release, evaluate and register it. "
        "Resumes after an interruption if started with the same options."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--recipe",
            metavar="NAME|FILE",
            help=f"{', '.join(recipes.RECIPES)}, or a JSON file of changes to one: "
            '{"recipe": NAME, FIELD: VALUE, …}',
        )
        parser.add_argument(
            "--student",
            metavar="RELEASE",
            help="continue from this student release instead of deriving one from the teacher",
        )
        parser.add_argument(
            "--tags",
            nargs="+",
            default=[],
            help="make a specialist for prompt variants with one of these tags",
        )
        parser.add_argument(
            "--new-decoder",
            action="store_true",
            help="with --student: train a new decoder, of the recipe's shape, in place of the student's",
        )
        add_changes(parser)
        parser.add_argument(
            "--name",
            help="name of the release; default: the recipe's with a key of its inputs",
        )
        add_judged_teacher(parser)
        parser.add_argument(
            "--clip",
            metavar="DIR",
            help="a CLIP of transformers for the evaluation; default as for --detector",
        )
        parser.add_argument(
            "--real", metavar="DIR", help="real images for the evaluation; default: none"
        )
        parser.add_argument(
            "--only",
            action="append",
            metavar="STAGE",
            help="run only this stage and those it depends on",
        )
        parser.add_argument(
            "--activate",
            action="store_true",
            help="activate the release after registering it, with --tags as a specialist",
        )
        parser.add_argument(
            "--no-register",
            action="store_true",
            help="do not register the release; print its folder",
        )
        parser.add_argument("--list", action="store_true", help="print the recipes and stop")

    def work(self, options: dict[str, Any]) -> None:
        if options["list"]:
            self.list()
            return
        if not options["recipe"]:
            raise CommandError(f"Give --recipe: {', '.join(recipes.RECIPES)}, or a file.")
        self.distil(options)

    def list(self) -> None:
        width = max(map(len, recipes.RECIPES))
        for recipe in recipes.RECIPES.values():
            self.stdout.write(f"{recipe.name:<{width}}  {recipe.summary}")

    def distil(self, options: dict[str, Any]) -> None:
        student = policy.named(options["student"], Kind.STUDENT) if options["student"] else None
        recipe = inputs.recipe_of(recipe_descriptions.described(options["recipe"]))
        recipe = overrides.changed(recipe, overrides.parse(options["changes"]))
        if student is not None:
            recipe = recipes.warm(recipe, keeps_decoder=not options["new_decoder"])
        elif options["new_decoder"]:
            raise CommandError("--new-decoder needs --student: every other run trains a new one.")
        teacher = policy.named(options["teacher"], Kind.TEACHER)
        given = inputs.gather(
            teacher,
            begins_with=student,
            active=inputs.compared_with(teacher, options["tags"]),
            detector=options["detector"],
            clip=options["clip"] or "",
            real=options["real"] or "",
            most_variants=recipe.most_variants,
            tags=options["tags"],
        )
        if given.detector is None:
            self.say("No detector: all images of the teacher are accepted.")
        chain = Chain(recipe, given, name=options["name"])
        chain.check()
        if options["name"] and not options["no_register"]:
            self.check_name(chain)
        made = chain.build(
            folders.root(),
            only=options["only"],
            on_stage=self.show,
            progress_bar=options["verbosity"] > 0,
        )
        if not processes.is_main() or RELEASE not in made:
            return
        evaluations.keep(chain.name, made)
        self.say(f"Report: {folders.report(chain.name) / evaluations.REPORT}")
        self.say_gate(json.loads((made[GATE] / GATE_FILE).read_text("utf-8")))
        if options["no_register"]:
            self.stdout.write(str(made[RELEASE] / RELEASE))
        else:
            self.register(chain.name, made, options)

    def check_name(self, chain: Chain) -> None:
        """Raise CommandError if another release has the name, before anything is trained."""
        is_made = stages.status(chain.table(), folders.root())[-1].state == "finished"
        if not is_made and Release.objects.filter(name=chain.name).exists():
            raise CommandError(
                f"Another release is named {chain.name}, or the stages of that one were deleted. Give another name: "
                "--name."
            )

    def say_gate(self, gate: dict[str, Any]) -> None:
        """Print what a scheduled run would decide."""
        self.say("Gate: passed." if gate["passed"] else "Gate: not passed.")
        for check in gate["checks"]:
            if not check["passed"]:
                value = partial(explanation.value_of, check)
                found = "" if check["found"] is None else f" {value('found')}"
                low = "" if check["low"] is None else f" (at least {value('low')})"
                self.say(
                    f"  {check['name']}:{found}{low}, limit {value('limit')}. {check['detail']}"
                )

    def register(self, name: str, made: Mapping[str, Path], options: dict[str, Any]) -> None:
        release = Release.objects.filter(name=name).first()
        if release is None:
            release = releases.register(made[RELEASE] / RELEASE)
            self.stdout.write(f"Registered {release.name} in {releases.folder(release)}.")
        else:
            self.stdout.write(f"{release.name} is already registered.")
        prompt_quality.record(made)
        changes = prompt_changes.of(release, is_specialist=bool(options["tags"]))
        evaluations.add_prompts(name, changes)
        if said := prompt_changes.sentences(changes):
            self.say(said)
        for row in changes["rows"]:
            self.say(f"  {prompt_changes.in_words(row)}")
        kind = " --specialist" if options["tags"] else ""
        if options["activate"] and options["tags"]:
            specialists.activate(release)
            self.stdout.write(f"{release.name} is a specialist.")
        elif options["activate"]:
            releases.activate(release)
            self.stdout.write(f"The active student is {release.name}.")
        elif release.status not in Release.SERVED:
            self.stdout.write(f"Activate it with: manage.py release activate {release.name}{kind}")

    def show(self, status: Status) -> None:
        if status.state == "finished":
            self.say(f"{status.name:<11} {status.seconds:8.0f} s  {status.folder}")
        elif status.state == "started":
            self.say(f"{status.name:<11} resumes   {status.folder}")

    def say(self, text: str) -> None:
        if processes.is_main():
            self.stderr.write(text, lambda plain: plain)  # progress, not an error: no red
