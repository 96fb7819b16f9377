"""Files of a comparison: table with intervals, curves of training, pictures by method."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib import pyplot as plt
from torch import Tensor

from distillation.evaluation.report import document, plots, sheets
from distillation.evaluation.report.sheets import Row
from distillation.evaluation.results import plain
from distillation.image_metrics.distances import Interval
from distillation.method_comparison import intervals
from distillation.method_comparison.settings import SQUARED, label
from distillation.method_comparison.trainings import Comparison, Outcome, Training
from distillation.resumable import atomic
from distillation.training import loop

TEMPLATE = Path(__file__).with_name("templates") / "methods.j2"
REPORT, MARKDOWN, FACTS = "report.html", "report.md", "methods.json"
CURVES, DIFFERENCES, PICTURES = "curves", "differences", "pictures.webp"
WATCHED = "watched_error"  # a curve that all trainings have
STRUCTURE = "structure"
PANELS = {
    STRUCTURE: "squared error to the guided teacher",
    "regression": "error of the latents",
    "joint": "error of the latents",
}
PICTURES_EACH = 2  # of a prompt, of each method


@dataclass(frozen=True)
class Line:
    """A method in the table. change: of the share of right pictures, method − baseline; None for the baseline.

    right, distance: over all seeds and prompts; rights, changes: of each seed. reached: share of the steps after which
    the error that all methods have in common is as low as the baseline's at its end; None: never.
    """

    method: str
    weight: str
    steps: int
    right: Interval
    change: Interval | None
    distance: Interval
    rights: tuple[float, ...]
    changes: tuple[float, ...]
    reached: float | None

    @property
    def points(self) -> Interval | None:
        """Return the change in percentage points."""
        return self.change and Interval(*(100 * part for part in self.change))

    @property
    def verdict(self) -> str:
        """Return better or worse if the interval excludes 0 and at least two trainings, and all, agree on the sign."""
        if self.change is None:
            return "baseline"
        if len(self.changes) > 1 and self.change.low > 0 and min(self.changes) > 0:
            return "better"
        if len(self.changes) > 1 and self.change.high < 0 and max(self.changes) < 0:
            return "worse"
        return "not told apart"


def lines(finals: Mapping[str, Sequence[Training]]) -> list[Line]:
    """Return the methods, those with the most right pictures first."""
    baseline = _right(finals[SQUARED])
    _, errors = _mean_curve(finals[SQUARED], STRUCTURE)
    found = []
    for method, trainings in finals.items():
        right, first = _right(trainings), trainings[0]
        found.append(
            Line(
                method,
                label(method, first.setting),
                first.steps,
                intervals.mean(right),
                None if method == SQUARED else intervals.difference(right, baseline),
                intervals.mean(torch.stack([each.distance for each in trainings])),
                tuple(right.nanmean(1).tolist()),
                () if method == SQUARED else tuple((right - baseline).nanmean(1).tolist()),
                _reached(trainings, errors[-1]),
            )
        )
    return sorted(found, key=lambda line: -line.right.value)


def _reached(trainings: Sequence[Training], error: float) -> float | None:
    shares, errors = _mean_curve(trainings, STRUCTURE)
    return next((s for s, e in zip(shares, errors, strict=True) if e <= error), None)


def _mean_curve(trainings: Sequence[Training], stage: str) -> tuple[list[float], list[float]]:
    """Return the shares of the steps, and the watched errors as means over the trainings."""
    curves = [
        plots.read_curve(training.folders[stage] / loop.METRICS)[WATCHED] for training in trainings
    ]
    steps = curves[0][0]
    values = torch.tensor([curve[1] for curve in curves]).double().mean(0).tolist()
    return [step / steps[-1] for step in steps], values


def _right(trainings: Sequence[Training]) -> Tensor:
    return torch.stack([training.right for training in trainings])


def write(comparison: Comparison, outcome: Outcome) -> Path:
    """Write all files of the trainings so far, and return the report's path."""
    folder, table = comparison.folder, lines(outcome.finals)
    folder.mkdir(parents=True, exist_ok=True)
    _curves(outcome.finals, folder)
    _differences(table, folder)
    _pictures(comparison, outcome.finals, folder)
    teacher = intervals.mean(_right_of_teacher(outcome.finals[SQUARED]))
    recipe = comparison.recipe
    data: dict[str, Any] = {
        "recipe": recipe.name,
        "student": f"cut {recipe.student.cut or 'none'}, width {recipe.student.width}",
        "minutes": comparison.minutes,
        "share": comparison.share,
        "seeds": len(outcome.finals[SQUARED]),
        "prompts": len(comparison.loaded.catalogue),
        "table": table,
        "teacher": teacher,
        "opening": opening(table),
        "trials": [
            (one.method, label(one.method, one.setting), one.steps, float(one.right.nanmean()),
             float(one.distance.mean()), _is_chosen(one, outcome))
            for one in outcome.trials
        ],
    }  # fmt: skip
    facts = {name: data[name] for name in ("recipe", "student", "minutes", "share", "teacher")}
    rows = [asdict(line) | {"verdict": line.verdict} for line in table]
    text = json.dumps(plain({**facts, "methods": rows, "trials": data["trials"]}), indent=2)
    atomic.write_file(folder / FACTS, text + "\n")
    atomic.write_file(folder / MARKDOWN, document.markdown(TEMPLATE, data))
    atomic.write_file(folder / REPORT, document.html(TEMPLATE, data, images=folder))
    return folder / REPORT


def opening(table: Sequence[Line]) -> str:
    """Return which methods the comparison tells apart from plain squared error."""
    names = {
        verdict: [line.method for line in table if line.verdict == verdict]
        for verdict in ("better", "worse", "not told apart")
    }
    found = [
        f"{words} plain squared error: {', '.join(names[verdict])}."
        for verdict, words in (
            ("better", "Better than"),
            ("worse", "Worse than"),
            ("not told apart", "Not told apart from"),
        )
        if names[verdict]
    ]
    return " ".join(found) or "Only plain squared error was trained."


def _right_of_teacher(trainings: Sequence[Training]) -> Tensor:
    return trainings[0].right_of_teacher[None]


def _is_chosen(trial: Training, outcome: Outcome) -> bool:
    return outcome.finals[trial.method][0].setting == trial.setting


# --- plots and pictures ---------------------------------------------------------------------------
def _differences(table: Sequence[Line], folder: Path) -> None:
    """Draw the difference to the baseline of each method, with its interval."""
    shown = [(line.method, line.change) for line in reversed(table) if line.change is not None]
    figure, axes = plt.subplots(figsize=(7, 1.2 + 0.45 * len(shown)), layout="constrained")
    for place, (_, change) in enumerate(shown):
        value, low, high = (100 * part for part in change)
        axes.errorbar(
            [value], [place], xerr=[[value - low], [high - value]], fmt="o", color=plots.BLUE
        )
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(shown)), [method for method, _ in shown])
    axes.set(
        xlabel="right pictures, points more than plain squared error", ylim=(-0.5, len(shown) - 0.5)
    )
    _save(figure, folder, DIFFERENCES)


def _curves(finals: Mapping[str, Sequence[Training]], folder: Path) -> None:
    """Draw the watched error of each stage, the mean over the seeds: over the stage's time, not its steps."""
    stages = [name for name in PANELS if name in next(iter(finals.values()))[0].folders]
    figure, grid = plt.subplots(
        1, len(stages), figsize=(4.6 * len(stages), 3.8), layout="constrained", squeeze=False
    )
    for axes, stage in zip(grid.flat, stages, strict=True):
        for method, trainings in finals.items():
            axes.plot(*_mean_curve(trainings, stage), marker=".", label=method)
        axes.set_yscale("log")
        axes.set(title=stage, xlabel="share of the training", ylabel=PANELS[stage], xlim=(0, 1.03))
    _save(figure, folder, CURVES)


def _save(figure: Any, folder: Path, name: str) -> None:
    figure.savefig(folder / f"{name}.svg")
    plots.save(figure, folder / f"{name}.png")


def _pictures(
    comparison: Comparison, finals: Mapping[str, Sequence[Training]], folder: Path
) -> None:
    """Write a row for each of some prompts: the teacher's pictures, then those of each method's first seed."""
    albums = {name: comparison.album_of(trainings[0]) for name, trainings in finals.items()}
    _, teacher = albums[SQUARED]
    columns = {"teacher": teacher} | {name: album for name, (album, _) in albums.items()}
    texts = comparison.loaded.catalogue.texts
    rows = []
    for number in sheets.chosen(len(texts), ()):
        parts = [album.read(number)[:PICTURES_EACH] for album in columns.values()]
        captions = [
            name if place == 0 else ""
            for name, part in zip(columns, parts, strict=True)
            for place in range(len(part))
        ]
        rows.append(
            Row(
                texts[number],
                sheets.small(torch.cat(parts)),
                tuple(captions),
                parted_at=len(parts[0]),
            )
        )
    atomic.make_file(folder / PICTURES, lambda path: sheets.write(path, rows))
