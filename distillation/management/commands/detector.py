"""`manage.py detector train | test | list | register | activate`: detector versions from the shell."""

import hashlib
import re
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError
from django.utils.formats import date_format

from distillation.detector.errors import LabelsUnusable
from distillation.detectors import registry as detectors
from distillation.management.options import DistillationCommand
from distillation.models import Detector


class Command(DistillationCommand):
    help = "Train, test, list, register and activate versions of the detector."
    # ValueError: an invalid field of the recipe.
    refusals = (*DistillationCommand.refusals, LabelsUnusable, ValueError)

    def add_arguments(self, parser: ArgumentParser) -> None:
        commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
        train = commands.add_parser(
            "train",
            help="train a version on a labelled folder, and register it",
            description="Started again with the same options it resumes. The folder has images, labels.csv "
            "(columns file, tags; optionally mask, defect, lacks, part) and bits.json.",
        )
        train.add_argument("folder", type=Path)
        train.add_argument("--name", help="name of the version; default: detector- and a number")
        train.add_argument("--bits", type=Path, metavar="FILE", help="default: FOLDER/bits.json")
        train.add_argument(
            "--from",
            dest="begins_with",
            metavar="NAME|FOLDER",
            help="start from the weights of this detector; default: the active one, if it has the same architecture",
        )
        train.add_argument("--anew", action="store_true", help="start from random weights")
        train.add_argument(
            "--keep",
            metavar="NAME|FOLDER",
            help="keep the classifier of this detector; train only quality and masks",
        )
        train.add_argument(
            "--false-accepts",
            type=float,
            default=0.02,
            metavar="RATE",
            help="share of images without a bit that may pass as having it (default: %(default)s)",
        )
        train.add_argument(
            "--margin",
            type=float,
            default=0.3,
            help="by how much another bit of a group may be more probable than the wanted one (default: %(default)s)",
        )
        train.add_argument(
            "--image-size",
            type=int,
            default=128,
            metavar="PIXELS",
            help="size of the images that it judges, best that of the teacher's (default: %(default)s)",
        )
        train.add_argument(
            "--steps",
            type=int,
            metavar="N",
            help="steps of each of the three trainings; default: the recipe's",
        )
        train.add_argument(
            "--test",
            type=Path,
            metavar="FOLDER",
            help="labelled images for the accuracy figures; default: those held out of the training",
        )
        train.add_argument("--activate", action="store_true", help="activate the version")
        test = commands.add_parser(
            "test",
            help="evaluate on a labelled folder: accuracy by bit and by defect, and a sample sheet",
        )
        test.add_argument("folder", type=Path)
        test.add_argument("--detector", metavar="NAME|FOLDER", help="default: the active version")
        test.add_argument(
            "--out",
            type=Path,
            metavar="DIR",
            help="folder for trial.json and trial.webp; default: FOLDER",
        )
        commands.add_parser("list", help="list the versions, newest first")
        register = commands.add_parser("register", help="register a folder as a candidate")
        register.add_argument("folder", type=Path)
        activate = commands.add_parser("activate", help="use this version from now on")
        activate.add_argument("name")

    def work(self, options: dict[str, Any]) -> None:
        getattr(self, options["command"])(options)

    def list(self, _options: dict[str, Any]) -> None:
        rows = list(Detector.objects.all())
        if not rows:
            self.stdout.write("No detectors. Train one: manage.py detector train FOLDER")
        for row in rows:
            size, required = row.manifest.get("image_size"), ", ".join(row.manifest["required"])
            pixels = f"{size}×{size}" if size else "–"
            self.stdout.write(
                f"{row.name:<24} {row.status:<9} {len(row.bits):>3} bits  {pixels}  "
                f"{date_format(row.registered_at, 'DATETIME_FORMAT')}"
                + (f"  requires {required}" if required else "")
            )

    def register(self, options: dict[str, Any]) -> None:
        row = detectors.register(options["folder"])
        self.stdout.write(
            f"Registered {row.name} in {detectors.folder(row)}.\n"
            f"Activate it with: manage.py detector activate {row.name}"
        )

    def activate(self, options: dict[str, Any]) -> None:
        row = detectors.activate(detectors.named(options["name"]))
        self.stdout.write(f"The active detector is {row.name}.")

    def train(self, options: dict[str, Any]) -> None:
        from distillation.detector import labels  # loads torch, which the other actions do not need
        from distillation.detector_training import version

        recipe = _recipe(options)
        labelled = labels.read(options["folder"], bits=options["bits"])
        keeps = _folder(options["keep"]) if options["keep"] else None
        begins_with = None if keeps else _beginning(options, recipe)
        # One folder per training, so that the same command resumes it.
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
        self.stdout.write(
            f"Trained and registered {row.name} with the bits {', '.join(made.bits)}."
        )
        if options["activate"]:
            self.activate({"name": row.name})
        else:
            self.stdout.write(f"Activate it with: manage.py detector activate {row.name}")

    def test(self, options: dict[str, Any]) -> None:
        from distillation.detector import judge, labels
        from distillation.evaluation import detector_accuracy

        judging = judge.load(_folder(options["detector"]))
        labelled = labels.read(options["folder"])
        found = detector_accuracy.run(judging, labelled)
        out = options["out"] or options["folder"]
        detector_accuracy.write(found, labelled, out, image_size=judging.image_size)
        self.stdout.write(f"{judging.name} on {len(labelled)} images of {options['folder']}\n")
        self.stdout.write(detector_accuracy.text(found))
        self.stdout.write(
            f"\nWrote {out / detector_accuracy.JSON} and {out / detector_accuracy.SHEET}."
        )


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
        masks=replace(recipe.masks, image_size=min(size, recipe.masks.image_size)),
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
    """Return the folder of a registered version's name, or the folder given; None = the active version."""
    if given and Path(given).is_dir():
        return Path(given)
    if given:
        return detectors.folder(detectors.named(given))
    active = detectors.active()
    if active is None:
        raise CommandError("No detector is active. Activate one: manage.py detector activate NAME")
    return detectors.folder(active)


def _name_of(folder: Path) -> str:
    """Return the name of an interrupted training."""
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
    """Validate the name before the training starts."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}", name):
        raise CommandError(f"{name!r} is not a valid name: use letters, digits, - and _.")
    if Detector.objects.filter(name=name).exists():
        raise CommandError(f"A detector named {name} is already registered. Give another name.")
