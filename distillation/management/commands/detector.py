"""`manage.py detector train | test | list | register | activate`: versions of the detector from the shell."""

import hashlib
import re
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from distillation.detectors import registry as detectors
from distillation.models import Detector
from generation.errors import GenerationError


class Command(BaseCommand):
    help = "Versions of the detector: train one on a labelled folder, test it, list, register, activate."

    def add_arguments(self, parser: ArgumentParser) -> None:
        commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
        train = commands.add_parser(
            "train",
            help="make a version from a labelled folder, and register it",
            description="The same command goes on after an interruption. The folder holds pictures, labels.csv "
            "(columns file, tags; mask, defect, lacks, part if you like) and bits.json.",
        )
        train.add_argument("folder", type=Path)
        train.add_argument("--name", help="of the version; default: detector- and a number")
        train.add_argument("--bits", type=Path, metavar="FILE", help="instead of FOLDER/bits.json")
        train.add_argument(
            "--from",
            dest="begins_with",
            metavar="NAME|FOLDER",
            help="begin with the weights of this detector; default: the active one, if it is built alike",
        )
        train.add_argument("--anew", action="store_true", help="begin with random weights")
        train.add_argument(
            "--keep",
            metavar="NAME|FOLDER",
            help="take the classifier of this detector as it is; only quality and masks are learned",
        )
        train.add_argument(
            "--false-accepts",
            type=float,
            default=0.02,
            metavar="RATE",
            help="share of pictures without a bit that may pass for having it (default: %(default)s)",
        )
        train.add_argument(
            "--margin",
            type=float,
            default=0.3,
            help="how much likelier another bit of a group may be than the wanted one (default: %(default)s)",
        )
        train.add_argument(
            "--image-size", type=int, default=128, metavar="PIXELS", help="default: %(default)s"
        )
        train.add_argument(
            "--steps",
            type=int,
            metavar="N",
            help="of each of the three trainings; default: the recipe's",
        )
        train.add_argument(
            "--test",
            type=Path,
            metavar="FOLDER",
            help="labelled, whose figures the version bears; default: what was held out of the training",
        )
        train.add_argument("--activate", action="store_true", help="judge by it from now on")
        test = commands.add_parser(
            "test", help="judge a labelled folder: figures by bit and by defect, and a sheet"
        )
        test.add_argument("folder", type=Path)
        test.add_argument("--detector", metavar="NAME|FOLDER", help="default: the active version")
        test.add_argument(
            "--out", type=Path, metavar="DIR", help="for trial.json and trial.webp; default: FOLDER"
        )
        commands.add_parser("list", help="the versions, the newest first")
        register = commands.add_parser("register", help="make a folder known, as a candidate")
        register.add_argument("folder", type=Path)
        activate = commands.add_parser("activate", help="judge by this version from now on")
        activate.add_argument("name")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            getattr(self, options["command"])(options)
        except GenerationError as error:
            raise CommandError(error.detail) from error

    def list(self, _options: dict[str, Any]) -> None:
        rows = list(Detector.objects.all())
        if not rows:
            self.stdout.write("No detectors. Train one: manage.py detector train FOLDER")
        for row in rows:
            size, required = row.manifest["image_size"], ", ".join(row.manifest["required"])
            self.stdout.write(
                f"{row.name:<24} {row.status:<9} {len(row.bits):>3} bits  {size}×{size}  "
                f"{row.registered_at:%Y-%m-%d %H:%M}"
                + (f"  requires {required}" if required else "")
            )

    def register(self, options: dict[str, Any]) -> None:
        row = detectors.register(options["folder"])
        self.stdout.write(
            f"Registered {row.name} in {detectors.folder(row)}.\n"
            f"Judge by it with: manage.py detector activate {row.name}"
        )

    def activate(self, options: dict[str, Any]) -> None:
        row = detectors.activate(detectors.named(options["name"]))
        self.stdout.write(f"The active detector is {row.name}.")

    def train(self, options: dict[str, Any]) -> None:
        from distillation.detector import labels  # the tensor libraries: the others do without
        from distillation.detector_training import version

        with _told():
            recipe = _recipe(options)
            labelled = labels.read(options["folder"], bits=options["bits"])
            keeps = _folder(options["keep"]) if options["keep"] else None
            begins_with = None if keeps else _beginning(options, recipe)
            # One folder for what is trained: the same command finds it again.
            key = hashlib.sha256(
                repr((labelled.digest, recipe, begins_with, keeps)).encode()
            ).hexdigest()
            folder = detectors.root() / f"training-{key[:16]}"
            name = options["name"] or _name_of(folder) or _free_name()
            _refuse_name(name)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "name").write_text(name, encoding="utf-8")
            made = version.make(
                recipe,
                labelled,
                name=name,
                folder=folder,
                begins_with=begins_with,
                keeps=keeps,
                tested=labels.read(options["test"]) if options["test"] else None,
            )
        row = detectors.register(folder / "version")
        self.stdout.write(f"Made and registered {row.name} with the bits {', '.join(made.bits)}.")
        if options["activate"]:
            self.activate({"name": row.name})
        else:
            self.stdout.write(f"Judge by it with: manage.py detector activate {row.name}")

    def test(self, options: dict[str, Any]) -> None:
        from distillation.detector import judge, labels
        from distillation.evaluation import detector_accuracy

        with _told():
            judging = judge.load(_folder(options["detector"]))
            labelled = labels.read(options["folder"])
            found = detector_accuracy.run(judging, labelled)
            out = options["out"] or options["folder"]
            detector_accuracy.write(found, labelled, out, image_size=judging.image_size)
        self.stdout.write(f"{judging.name} on {len(labelled)} pictures of {options['folder']}\n")
        self.stdout.write(detector_accuracy.text(found))
        self.stdout.write(
            f"\nWrote {out / detector_accuracy.JSON} and {out / detector_accuracy.SHEET}."
        )


@contextmanager
def _told() -> Iterator[None]:
    """What tensor code refuses, as an error of the command."""
    from distillation.detector.errors import DetectorUnusable, LabelsUnusable
    from distillation.training.errors import TrainingError

    try:
        yield
    except (DetectorUnusable, LabelsUnusable, TrainingError, ValueError) as error:
        raise CommandError(str(error)) from error


def _recipe(options: dict[str, Any]) -> Any:
    from dataclasses import replace

    from distillation.detector_training.version import JudgeRecipe

    recipe = JudgeRecipe()
    size, steps = options["image_size"], options["steps"]
    recipe = replace(
        recipe,
        image_size=size,
        false_accepts=options["false_accepts"],
        margin=options["margin"],
        masks=replace(recipe.masks, image_size=size),
    )
    if steps is None:
        return recipe
    warmup = min(60, steps // 10)
    return replace(
        recipe,
        classifier=replace(recipe.classifier, steps=steps, warmup=warmup),
        quality=replace(recipe.quality, steps=steps, warmup=warmup),
        segmentation=replace(recipe.segmentation, steps=steps, warmup=warmup),
    )


def _beginning(options: dict[str, Any], recipe: Any) -> Path | None:
    if options["begins_with"]:
        return _folder(options["begins_with"])
    active = None if options["anew"] else detectors.active()
    if active is None or active.manifest["image_size"] != recipe.image_size:
        return None
    return detectors.folder(active)


def _folder(given: str | None) -> Path:
    """Of a registered version's name, or a folder; None is the active version."""
    if given and Path(given).is_dir():
        return Path(given)
    if given:
        return detectors.folder(detectors.named(given))
    active = detectors.active()
    if active is None:
        raise CommandError("No detector is active. Activate one: manage.py detector activate NAME")
    return detectors.folder(active)


def _name_of(folder: Path) -> str:
    """That of a training which was interrupted."""
    kept = folder / "name"
    return kept.read_text("utf-8") if kept.is_file() else ""


def _free_name() -> str:
    numbers = [
        int(found[1])
        for name in Detector.objects.values_list("name", flat=True)
        if (found := re.fullmatch(r"detector-(\d+)", name))
    ]
    return f"detector-{max(numbers, default=0) + 1}"


def _refuse_name(name: str) -> None:
    """Before hours of training, not after."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}", name):
        raise CommandError(f"{name!r} is no name: letters, digits, - and _ make one.")
    if Detector.objects.filter(name=name).exists():
        raise CommandError(f"A detector named {name} is registered already. Give another name.")
