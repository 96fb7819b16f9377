"""The plots of reports, as small PNG files."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # before pyplot: there may be no screen
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from distillation.evaluation.latency import PARTS, Speed
from distillation.evaluation.report import number_format
from distillation.evaluation.results import Evaluation, Pair
from distillation.image_metrics.distances import Interval

DPI = 100
BLUE, ORANGE, GREY = "#1f5fa8", "#d1691f", "#9aa3ad"
LABELS = {
    "total": "whole picture",
    "unet": "U-Net",
    "decoder": "decoder",
    "file": "encoding the file",
}
NOT_A_LOSS = ("step", "seconds")
SMOOTHED = 40  # the thick line of losses averages over a fortieth of the curve


def save(figure: Figure, path: Path) -> str:
    """Write the figure, with grids and legends, and return the name of its file."""
    for axes in figure.axes:
        if not axes.images:
            axes.grid(alpha=0.25)
        if axes.get_legend_handles_labels()[1] and not axes.get_legend():
            axes.legend(fontsize=8)
    figure.savefig(path, dpi=DPI)
    plt.close(figure)
    return path.name


# --- an evaluation --------------------------------------------------------------------------------
def draw(evaluation: Evaluation, folder: Path) -> dict[str, str]:
    """Return the files of the plots for which there are numbers: "attributes", "clip", "diversity", "speed"."""
    prompts = evaluation.per_prompt
    right = [prompt.right for prompt in prompts if prompt.right]
    scores = [prompt.clip_score for prompt in prompts if prompt.clip_score]
    ratios = [p.spread.student / p.spread.teacher for p in prompts if p.spread and p.spread.teacher]
    student, teacher = evaluation.student.speed, evaluation.teacher.speed
    figures = {}
    if right:
        figures["attributes"] = _attributes(right)
    if scores:
        figures["clip"] = _clip(scores)
    if ratios:
        figures["diversity"] = _diversity(ratios, evaluation.margins.diversity)
    if student and teacher:
        figures["speed"] = _speed(student, teacher)
    return {name: save(figure, folder / f"{name}.png") for name, figure in figures.items()}


def _attributes(right: list[Pair]) -> Figure:
    """Draw both releases from their best prompt to their worst, and each prompt as a point."""
    figure, (left, middle) = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    numbers = range(1, len(right) + 1)
    for name, colour in (("teacher", GREY), ("student", BLUE)):
        ordered = sorted((getattr(pair, name) for pair in right), reverse=True)
        left.step(numbers, ordered, where="mid", color=colour, linewidth=2, label=name)
    left.set(
        xlabel="prompts, each release's best first", ylabel="pictures with all attributes right"
    )
    left.set_ylim(-0.03, 1.03)
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    # Few seeds give few values: equal points become one whose area is their number.
    found = Counter((pair.teacher, pair.student) for pair in right)
    areas = [18 + 500 * count / len(right) for count in found.values()]
    middle.scatter(*zip(*found, strict=True), s=areas, color=BLUE, alpha=0.55, linewidths=0)
    _diagonal(middle, -0.05, 1.05)
    middle.set(xlabel="teacher, share right", ylabel="student, share right")
    middle.set_title("below the line the student lost; area: prompts", fontsize=9)
    return figure


def _clip(scores: list[Pair]) -> Figure:
    figure, axes = plt.subplots(figsize=(4.6, 4.2), layout="constrained")
    axes.scatter(
        [pair.teacher for pair in scores], [pair.student for pair in scores], s=14, color=BLUE
    )
    ends = [value for pair in scores for value in (pair.teacher, pair.student)]
    gap = 0.05 * (max(ends) - min(ends)) or 1.0
    _diagonal(axes, min(ends) - gap, max(ends) + gap)
    axes.set(xlabel="teacher, CLIP score", ylabel="student, CLIP score")
    axes.set_title("one point per prompt; below the line the student lost", fontsize=9)
    return figure


def _diversity(ratios: list[float], margin: float | None) -> Figure:
    figure, axes = plt.subplots(figsize=(6, 3.4), layout="constrained")
    axes.hist(ratios, bins=min(30, max(5, len(ratios) // 4)), color=BLUE, alpha=0.8)
    axes.axvline(1, color="black", linewidth=1, label="as the teacher")
    if margin is not None:
        axes.axvline(margin, color=ORANGE, linestyle="--", label="margin of the mean")
    axes.set(xlabel="diversity within a prompt, student ÷ teacher", ylabel="prompts")
    axes.set_xlim(0, 1.05 * max(1.0, *ratios))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _speed(student: Speed, teacher: Speed) -> Figure:
    figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
    height = 0.38
    for offset, name, speed, colour in (
        (-height / 2, "teacher", teacher, GREY),
        (height / 2, "student", student, BLUE),
    ):
        values = [1000 * speed.seconds[part].median for part in PARTS]
        beyond = [1000 * speed.seconds[part].p95 for part in PARTS]
        places = [row + offset for row in range(len(PARTS))]
        axes.barh(places, values, height, color=colour, label=f"{name}, median")
        for place, value, most in zip(places, values, beyond, strict=True):
            text = number_format.milliseconds(value / 1000)
            axes.text(1.12 * most, place, text, va="center", fontsize=8)
        axes.scatter(beyond, places, color=colour, edgecolors="black", s=16, zorder=3)
    axes.scatter([], [], color="white", edgecolors="black", s=16, label="95th percentile")
    axes.set_yticks(range(len(PARTS)), [LABELS[part] for part in PARTS])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlim(right=6 * max(s.seconds["total"].p95 * 1000 for s in (student, teacher)))
    axes.set_xlabel("milliseconds for one picture (logarithmic)")
    axes.legend(fontsize=8, loc="lower right")
    return figure


def _diagonal(axes: Axes, low: float, high: float) -> None:
    axes.plot([low, high], [low, high], color="black", linewidth=0.8)
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")


# --- a teacher and its training -------------------------------------------------------------------
def sweep(
    path: Path,
    scales: Sequence[float],
    *,
    shares: Mapping[str, Sequence[Interval]],
    kid: Sequence[Interval],
    chosen: float,
    floor: Interval,
) -> None:
    """Draw shares of right pictures, by their label, and the KID × 1000 to photographs against the guidance scale.

    floor: the KID × 1000 between two sets of photographs.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for (label, intervals), colour in zip(shares.items(), (BLUE, GREY), strict=True):
        _error_bars(left, scales, intervals, colour, label)
    left.set(ylabel="share of pictures that are right", ylim=(0, 1.02))
    _error_bars(right, scales, kid, ORANGE, "teacher to photographs")
    right.axhline(floor.value, color=GREY, linestyle="--", label="photographs to photographs")
    right.set(ylabel="KID × 1000 on our CLIP")
    for axes in (left, right):
        axes.axvline(
            chosen, color="black", linewidth=0.8, linestyle=":", label=f"chosen: {chosen:g}"
        )
        axes.set_xlabel("guidance scale")
    save(figure, path)


def _error_bars(
    axes: Axes, x: Sequence[float], intervals: Sequence[Interval], colour: str, label: str
) -> None:
    values = [interval.value for interval in intervals]
    below = [max(0.0, interval.value - interval.low) for interval in intervals]
    above = [max(0.0, interval.high - interval.value) for interval in intervals]
    axes.errorbar(x, values, yerr=[below, above], color=colour, marker="o", capsize=3, label=label)


def confusions(path: Path, matrices: Mapping[str, tuple[Sequence[str], Tensor]]) -> None:
    """Draw four confusion matrices in per cent of the wanted word: by title, the words and int64 [wanted, seen]."""
    figure, grid = plt.subplots(2, 2, figsize=(9, 8), layout="constrained")
    for axes, (title, (words, matrix)) in zip(grid.flat, matrices.items(), strict=True):
        shares = 100 * matrix.double() / matrix.sum(1, keepdim=True).clamp(min=1)
        axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=100)
        for row, column in (shares >= 0.5).nonzero().tolist():
            ink = "white" if shares[row, column] > 60 else "black"
            text = f"{shares[row, column]:.0f}"
            axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=8)
        axes.set_xticks(range(len(words)), words, rotation=45, ha="right")
        axes.set_yticks(range(len(words)), words)
        axes.set(title=title, xlabel="seen", ylabel="asked for")
    save(figure, path)


def losses(path: Path, curve: Path, *, title: str) -> None:
    """Draw a panel for each loss of a `metrics.jsonl`: the logged means and their moving average. Raises ValueError."""
    series = read_curve(curve)
    columns = min(3, len(series))
    rows = -(-len(series) // columns)
    size = (3.4 * columns + 0.4, 2.5 * rows + 0.4)
    figure, grid = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    for axes in grid.flat[len(series) :]:
        axes.set_visible(False)
    for axes, (name, (steps, values)) in zip(grid.flat, series.items(), strict=False):
        axes.plot(steps, values, color=GREY, linewidth=0.6, alpha=0.7)
        axes.plot(steps, _smoothed(values), color=BLUE, linewidth=1.6)
        if min(values) > 0 and max(values) > 5 * min(values):
            axes.set_yscale("log")
        axes.set_title(name, fontsize=9)
        axes.set_xlabel("step", fontsize=8)
        axes.tick_params(labelsize=7)
    figure.suptitle(title, fontsize=11)
    save(figure, path)


def read_curve(curve: Path) -> dict[str, tuple[list[float], list[float]]]:
    """Return the logged steps and means of each loss. Raises ValueError."""
    series: dict[str, tuple[list[float], list[float]]] = {}
    for number, line in enumerate(curve.read_text("utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            for name, value in row.items():
                if name not in NOT_A_LOSS:
                    steps, values = series.setdefault(name, ([], []))
                    steps.append(float(row["step"]))
                    values.append(float(value))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{curve}, line {number}: not a line of metrics ({error}).") from error
    if not series:
        raise ValueError(f"{curve} contains no losses.")
    return series


def _smoothed(values: Sequence[float]) -> list[float]:
    """Return the exponential average over a SMOOTHED-th of the curve, without the bias of its start (as in Adam)."""
    keep = 1 - 1 / max(1.0, len(values) / SMOOTHED)
    smoothed, average, weight = [], 0.0, 0.0
    for value in values:
        average = keep * average + (1 - keep) * value
        weight = keep * weight + (1 - keep)
        smoothed.append(average / weight)
    return smoothed
