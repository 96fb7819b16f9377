"""The commands that make the starter and measure it: `python -m distillation.starter`. Knows no stage by name."""

import argparse
import signal
import sys
from collections.abc import Sequence
from dataclasses import astuple, replace
from pathlib import Path
from typing import TYPE_CHECKING

from distillation.resumable import stages
from distillation.resumable.stages import StageError, Status
from distillation.starter.report.records import HistoryUnusable
from distillation.training.errors import TrainingError
from generation.engine.errors import EngineError

if TYPE_CHECKING:
    from distillation.starter.photographs import Photographs

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / ".retort" / "starter"
INTERRUPTED = 130  # what a shell calls a command that Ctrl-C ended


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status."""
    options = _parser().parse_args(arguments)
    try:
        options.command(options)
    except KeyboardInterrupt:
        print("\nInterrupted; the same command goes on from here.", file=sys.stderr)
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
        help="where stages keep what they make (default: %(default)s)",
    )
    shared.add_argument(
        "--quick",
        action="store_true",
        help="toy sizes, to try everything in minutes; nothing outside DIR is written",
    )
    parser = argparse.ArgumentParser(
        prog="python -m distillation.starter",
        description="Make the starter: photographs, captions, CLIP, VAE, detector, teacher, release.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    building = commands.add_parser(
        "build", parents=[shared], help="build what is not finished, and publish the pack"
    )
    building.add_argument(
        "--only",
        nargs="+",
        metavar="STAGE",
        help="these stages and what they need; see `status` for their names",
    )
    building.set_defaults(command=_build)
    reporting = commands.add_parser(
        "report", parents=[shared], help="measure the published pack and write docs/starter.md"
    )
    reporting.set_defaults(command=_report)
    rendering = commands.add_parser(
        "photographs",
        parents=[shared],
        help="render the photographs that no training sees, as files: what `distill --real` compares with",
    )
    rendering.add_argument("folder", type=Path, help="where they are written, as PNG")
    rendering.set_defaults(command=_photographs)
    labelling = commands.add_parser(
        "labels",
        parents=[shared],
        help="render photographs as a labelled folder, for `manage.py detector train` or `detector test`",
    )
    labelling.add_argument("folder", type=Path, help="where it is written")
    labelling.add_argument(
        "--planted",
        action="store_true",
        help="photographs that no training sees, and bad ones among them: for `detector test`",
    )
    labelling.add_argument(
        "--photographs",
        type=int,
        default=896,
        metavar="N",
        help="how many, besides those that are held out (default: %(default)s; about 3 a second)",
    )
    labelling.add_argument(
        "--skip",
        type=int,
        default=0,
        metavar="N",
        help="with --planted: leave out the first photographs, which somebody has looked at already",
    )
    labelling.set_defaults(command=_labels)
    showing = commands.add_parser("status", parents=[shared], help="how far each stage is")
    showing.set_defaults(command=_status)
    return parser


# --- commands -------------------------------------------------------------------------------------
def _build(options: argparse.Namespace) -> None:
    from transformers.utils import logging

    from distillation.starter import recipe  # loads the libraries of every stage: not for --help

    logging.disable_progress_bar()  # of loading and saving: a second's work, and a line each
    table = recipe.QUICK if options.quick else recipe.STAGES
    folders = stages.build(table, options.data, only=options.only, on_stage=_announce)
    if recipe.PACK in folders and not options.quick:
        recipe.publish(folders[recipe.PACK])
        print(f"Published in {recipe.PUBLISHED.teacher} with its judges and its history.")
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
    document = report.write(
        options.data, measured.teacher, measured.judges, docs=docs, quick=options.quick
    )
    print(f"Wrote {document}.")


def _photographs(options: argparse.Namespace) -> None:
    from PIL import Image

    from distillation.starter import photographs, recipe, rendering

    split = "test"
    rows = recipe.QUICK_RECIPES if options.quick else recipe.FULL_RECIPES
    kept = options.data / f"photographs-{split}{'-quick' if options.quick else ''}"
    rendering.build(kept, rows.scenes, splits=(split,))
    taken = photographs.read(kept, split)
    options.folder.mkdir(parents=True, exist_ok=True)
    for seed, combination, image in zip(taken.seeds, taken.combinations, taken.images, strict=True):
        name = "-".join((*astuple(combination), str(seed)))
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(options.folder / f"{name}.png")
    print(f"{len(taken)} photographs in {options.folder}.")


def _labels(options: argparse.Namespace) -> None:
    from distillation.starter import labels, rendering

    if options.photographs < 1 or options.skip < 0:
        raise StageError("--photographs is 1 or more, --skip 0 or more.")
    if options.planted:
        taken = _taken(options, "test", options.skip + options.photographs)
        count = labels.plant(options.folder, taken.part(options.skip, options.photographs))
    else:
        # A third more, in whole shards.
        held = -(-options.photographs // (3 * rendering.SHARD)) * rendering.SHARD
        parts = {"train": ("train", options.photographs), "held-out": ("validation", held)}
        count = labels.write(
            options.folder,
            {part: _taken(options, *split).part(0, split[1]) for part, split in parts.items()},
        )
    print(f"{count} labelled pictures in {options.folder}.")


def _taken(options: argparse.Namespace, split: str, count: int) -> "Photographs":
    """Photographs of a split, in whole shards; those that are there already are not rendered again."""
    from distillation.starter import photographs, recipe, rendering

    rows = recipe.QUICK_RECIPES if options.quick else recipe.FULL_RECIPES
    whole = -(-count // rendering.SHARD) * rendering.SHARD
    kept = options.data / f"photographs-{split}{'-quick' if options.quick else ''}"
    sized = replace(rows.scenes, train=whole, validation=whole, test=whole)
    rendering.build(kept, sized, splits=(split,))
    return photographs.read(kept, split)


def _status(options: argparse.Namespace) -> None:
    from distillation.starter import recipe

    print(_table(stages.status(recipe.QUICK if options.quick else recipe.STAGES, options.data)))


# --- text -----------------------------------------------------------------------------------------
def _announce(row: Status) -> None:
    """Before a stage is built, so that its progress bar has a heading."""
    if row.state == "started":
        print(f"{row.name}: going on after {_duration(row.seconds)} …", flush=True)
    elif row.state == "absent":
        print(f"{row.name} …", flush=True)


def _table(rows: Sequence[Status]) -> str:
    """A line a stage, with the sum of the times at the end."""
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
    # As an exception, so that what was begun is put in order: times written, rendering processes ended.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    sys.exit(main())
