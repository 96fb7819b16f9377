"""Command line of the starter: build it and measure it. `python -m distillation.starter`."""

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import astuple, replace
from pathlib import Path
from typing import TYPE_CHECKING

from distillation.resumable import stages
from distillation.resumable.stages import StageError, Status
from distillation.starter.report.history import History, HistoryUnusable
from distillation.training.errors import TrainingError
from generation.engine.errors import EngineError

if TYPE_CHECKING:
    from distillation.starter.photographs import Photographs

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / ".retort" / "starter"
INTERRUPTED = 130  # exit status of a command ended by Ctrl-C


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status."""
    options = _parser().parse_args(arguments)
    try:
        options.command(options)
    except KeyboardInterrupt:
        print("\nInterrupted; the same command continues from here.", file=sys.stderr)
        return INTERRUPTED
    except (StageError, TrainingError, HistoryUnusable, EngineError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--data",
        type=Path,
        default=DATA,
        metavar="DIR",
        help="folder of the results of the stages (default: %(default)s)",
    )
    shared.add_argument(
        "--quick",
        action="store_true",
        help="use toy sizes: all stages in minutes, nothing written outside DIR",
    )
    parser = argparse.ArgumentParser(
        prog="python -m distillation.starter",
        description="Build the starter: photographs, captions, CLIP, VAE, detector, teacher, release.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(
        name: str, run: Callable[[argparse.Namespace], None], text: str
    ) -> argparse.ArgumentParser:
        found: argparse.ArgumentParser = commands.add_parser(name, parents=[shared], help=text)
        found.set_defaults(command=run)
        return found

    build = command("build", _build, "build the unfinished stages and publish the release")
    build.add_argument(
        "--only",
        nargs="+",
        metavar="STAGE",
        help="build these stages and those they need; `status` lists their names",
    )
    report = command("report", _report, "measure the published release and write docs/starter.md")
    report.add_argument(
        "--student",
        type=Path,
        metavar="RELEASE",
        help="folder of a student of this teacher: measure it too",
    )
    report.add_argument(
        "--render",
        action="store_true",
        help="write the document from the saved figures, without measuring",
    )
    blind = command(
        "blind",
        _blind,
        "write a shuffled sheet of photographs and a student's pictures, and the key in a separate file",
    )
    blind.add_argument("student", type=Path, help="folder of the student's release")
    blind.add_argument("folder", type=Path, help="folder for the sheet and the key")
    photographs = command(
        "photographs",
        _photographs,
        "render photographs that are used in no training, as files for `distill --real`",
    )
    photographs.add_argument("folder", type=Path, help="folder for the PNG files")
    photographs.add_argument(
        "--training",
        action="store_true",
        help="those of the training instead, in a folder for each prompt, for `images add --each-folder`",
    )
    _add_labels(
        command(
            "labels",
            _labels,
            "render photographs as a labelled folder for `manage.py detector train` or `detector test`",
        )
    )
    command("status", _status, "show the state of each stage")
    return parser


def _add_labels(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="folder for the photographs and their labels")
    parser.add_argument(
        "--planted",
        action="store_true",
        help="for `detector test`: photographs that are used in no training, and defective pictures",
    )
    parser.add_argument(
        "--photographs",
        type=int,
        default=896,
        metavar="N",
        help="number of photographs, not counting held-out ones (default: %(default)s; about 3 per second)",
    )
    parser.add_argument(
        "--skip",
        type=int,
        default=0,
        metavar="N",
        help="with --planted: skip the first N photographs, for example those already reviewed",
    )


# --- commands -------------------------------------------------------------------------------------
def _build(options: argparse.Namespace) -> None:
    from transformers.utils import logging

    from distillation.starter import (
        recipe,  # imports the libraries of every stage: too slow for --help
    )

    logging.disable_progress_bar()  # of loading and saving, which take a second
    table = recipe.QUICK if options.quick else recipe.STAGES
    folders = stages.build(table, options.data, only=options.only, on_stage=_announce)
    if recipe.PACK in folders and not options.quick:
        recipe.publish(folders[recipe.PACK])
        print(f"Published in {recipe.PUBLISHED.teacher}, with its judges and its history.")
    print(_table([row for row in stages.status(table, options.data) if row.name in folders]))


def _report(options: argparse.Namespace) -> None:
    from transformers.utils import logging

    from distillation.starter import recipe
    from distillation.starter.report import writer as report

    logging.disable_progress_bar()
    measured, docs = recipe.PUBLISHED, ROOT / "docs"
    if options.quick:
        folder = stages.folder_of(recipe.QUICK, options.data, recipe.PACK)
        measured, docs = recipe.packed(folder), options.data / "report-quick"
    if options.render:
        document = report.render(docs, History.read(measured.judges.parent / "history"))
    else:
        document = report.write(
            options.data,
            measured.teacher,
            measured.judges,
            docs=docs,
            student=options.student,
            quick=options.quick,
        )
    print(f"Wrote {document}.")


def _blind(options: argparse.Namespace) -> None:
    from distillation.starter.report import blind, student

    pictures, combinations = student.make(
        options.student, options.data / "pictures", progress_bar=True
    )
    try:
        sheet = blind.write(options.folder, _rendered(options, "test"), pictures, combinations)
    except ValueError as error:
        raise StageError(str(error)) from error
    print(f"Wrote {sheet}.")


def _photographs(options: argparse.Namespace) -> None:
    from PIL import Image

    rendered = _of_training(options) if options.training else _rendered(options, "test")
    for seed, combination, image in zip(
        rendered.seeds, rendered.combinations, rendered.images, strict=True
    ):
        if options.training:
            file = options.folder / combination.slug / f"{seed}.png"
        else:
            file = options.folder / f"{'-'.join((*astuple(combination), str(seed)))}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file)
    print(f"{len(rendered)} photographs in {options.folder}.")


def _of_training(options: argparse.Namespace) -> "Photographs":
    """Return the photographs of the stage `scenes` for the prompts of the catalogue."""
    from distillation.starter import captions, photographs, recipe

    table = recipe.QUICK if options.quick else recipe.STAGES
    found = photographs.read(stages.folder_of(table, options.data, "scenes"), "train")
    known = set(captions.catalogue())
    return found.take([row for row, own in enumerate(found.combinations) if own in known])


def _labels(options: argparse.Namespace) -> None:
    from distillation.starter import labels, rendering

    if options.photographs < 1 or options.skip < 0:
        raise StageError("Give --photographs of at least 1 and --skip of at least 0.")
    if options.planted:
        rendered = _rendered(options, "test", options.skip + options.photographs)
        count = labels.plant(options.folder, rendered.part(options.skip, options.photographs))
    else:
        # Held-out photographs: a third of that number, rounded up to whole shards.
        held = -(-options.photographs // (3 * rendering.SHARD)) * rendering.SHARD
        parts = {"train": ("train", options.photographs), "held-out": ("validation", held)}
        count = labels.write(
            options.folder,
            {part: _rendered(options, *split).part(0, split[1]) for part, split in parts.items()},
        )
    print(f"{count} labelled pictures in {options.folder}.")


def _rendered(options: argparse.Namespace, split: str, count: int = 0) -> "Photographs":
    """Return at least `count` photographs of a split (0: as many as in the recipe), rendering the missing ones."""
    from distillation.starter import photographs, recipe, rendering

    rows = recipe.QUICK_RECIPES if options.quick else recipe.FULL_RECIPES
    whole = -(-count // rendering.SHARD) * rendering.SHARD or rows.scenes.sizes()[split]
    kept = options.data / f"photographs-{split}{'-quick' if options.quick else ''}"
    sized = replace(rows.scenes, train=whole, validation=whole, test=whole)
    rendering.build(kept, sized, splits=(split,))
    return photographs.read(kept, split)


def _status(options: argparse.Namespace) -> None:
    from distillation.starter import recipe

    print(_table(stages.status(recipe.QUICK if options.quick else recipe.STAGES, options.data)))


# --- text -----------------------------------------------------------------------------------------
def _announce(row: Status) -> None:
    """Print the name of a stage before it is built, as the heading of its progress bar."""
    if row.state == "started":
        print(f"{row.name}: continuing after {_duration(row.seconds)} …", flush=True)
    elif row.state == "absent":
        print(f"{row.name} …", flush=True)


def _table(rows: Sequence[Status]) -> str:
    """Return one line per stage, and the total time and size in the last line."""
    cells = [("stage", "state", "time", "size", "folder")]
    cells += [
        (row.name, row.state, _duration(row.seconds), _size(row.bytes), str(row.folder))
        for row in rows
    ]
    total = _duration(sum(row.seconds for row in rows)), _size(sum(row.bytes for row in rows))
    cells.append(("all", "", *total, ""))
    widths = [max(len(row[column]) for row in cells) for column in range(4)]
    return "\n".join(
        f"{name:<{widths[0]}}  {state:<{widths[1]}}  {time:>{widths[2]}}  {size:>{widths[3]}}  {folder}".rstrip()
        for name, state, time, size, folder in cells
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def _size(count: int) -> str:
    return f"{count / 2**20:.1f} MiB"


if __name__ == "__main__":
    # SIGTERM raises SystemExit, so that times are written and rendering processes end.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    sys.exit(main())
