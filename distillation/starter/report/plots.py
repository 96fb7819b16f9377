"""The plots of the report, as small PNG files. Knows no judge and no training: it draws what it is given."""

import json
from collections.abc import Sequence
from pathlib import Path

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from distillation.evaluation.distances import Interval
from distillation.evaluation.proportions import Share
from distillation.evaluation.report.plots import BLUE, GREY, ORANGE, save
from distillation.starter.report import measuring
from distillation.starter.report.measuring import SweepPoint, Verdict
from distillation.starter.words import ATTRIBUTES

NOT_A_LOSS = ("step", "seconds")
SMOOTHED = 40  # the thick line averages over a fortieth of the curve


def sweep(path: Path, points: Sequence[SweepPoint], *, best: float, floor: Interval) -> None:
    """Attributes and distance against guidance. floor: the KID × 1000 of real photographs to real ones."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    scales = [point.guidance_scale for point in points]
    all_four = [_interval(point.all_four) for point in points]
    _with_intervals(left, scales, all_four, BLUE, "all four attributes")
    strict = [_interval(point.strict) for point in points]
    _with_intervals(left, scales, strict, GREY, "all 23 bits")
    left.set(ylabel="share of pictures that are right", ylim=(0, 1.02))
    _with_intervals(right, scales, [p.kid for p in points], ORANGE, "teacher to photographs")
    right.axhline(floor.value, color=GREY, linestyle="--", label="photographs to photographs")
    right.set(ylabel="KID × 1000 on our CLIP")
    for axes in (left, right):
        axes.axvline(best, color="black", linewidth=0.8, linestyle=":", label=f"chosen: {best:g}")
        axes.set_xlabel("guidance scale")
        axes.grid(alpha=0.25)
        axes.legend(fontsize=8)
    save(figure, path)


def confusions(path: Path, verdict: Verdict) -> None:
    """For each attribute how often one word was seen where another was asked for, in per cent of what was asked."""
    figure, grid = plt.subplots(2, 2, figsize=(9, 8), layout="constrained")
    for axes, (attribute, words) in zip(grid.flat, ATTRIBUTES.items(), strict=True):
        matrix = measuring.confusion_matrix(verdict, attribute).double()
        shares = 100 * matrix / matrix.sum(1, keepdim=True).clamp(min=1)
        axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=100)
        for row in range(len(words)):
            for column in range(len(words)):
                if shares[row, column] >= 0.5:
                    ink = "white" if shares[row, column] > 60 else "black"
                    text = f"{shares[row, column]:.0f}"
                    axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=8)
        axes.set_xticks(range(len(words)), words, rotation=45, ha="right")
        axes.set_yticks(range(len(words)), words)
        axes.set(title=attribute, xlabel="seen", ylabel="asked for")
    save(figure, path)


def losses(path: Path, curve: Path, *, title: str) -> None:
    """A panel for each loss of a `metrics.jsonl`: every logged mean, and their moving average. Raises ValueError."""
    series = read_curve(curve)
    columns = min(3, len(series))
    rows = -(-len(series) // columns)
    figure, grid = plt.subplots(
        rows,
        columns,
        figsize=(3.4 * columns + 0.4, 2.5 * rows + 0.4),
        layout="constrained",
        squeeze=False,
    )
    for axes in grid.flat[len(series) :]:
        axes.set_visible(False)
    for axes, (name, (steps, values)) in zip(grid.flat, series.items(), strict=False):
        axes.plot(steps, values, color=GREY, linewidth=0.6, alpha=0.7)
        axes.plot(steps, _smooth(values), color=BLUE, linewidth=1.6)
        if min(values) > 0 and max(values) > 5 * min(values):
            axes.set_yscale("log")
        axes.set_title(name, fontsize=9)
        axes.set_xlabel("step", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.25)
    figure.suptitle(title, fontsize=11)
    save(figure, path)


def read_curve(curve: Path) -> dict[str, tuple[list[float], list[float]]]:
    """By loss the steps and the means that were logged. Raises ValueError."""
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
            raise ValueError(f"{curve}, line {number}: no line of metrics ({error}).") from error
    if not series:
        raise ValueError(f"{curve} holds no losses.")
    return series


def _smooth(values: Sequence[float]) -> list[float]:
    """An exponential average over a SMOOTHED-th of the curve, without the pull of its start at 0 (as Adam's)."""
    keep = 1 - 1 / max(1.0, len(values) / SMOOTHED)
    smoothed, average, weight = [], 0.0, 0.0
    for value in values:
        average = keep * average + (1 - keep) * value
        weight = keep * weight + (1 - keep)
        smoothed.append(average / weight)
    return smoothed


def _interval(share: Share) -> Interval:
    return Interval(share.value, *share.interval)


def _with_intervals(
    axes: Axes, x: Sequence[float], intervals: Sequence[Interval], colour: str, label: str
) -> None:
    values = [interval.value for interval in intervals]
    below = [max(0.0, interval.value - interval.low) for interval in intervals]
    above = [max(0.0, interval.high - interval.value) for interval in intervals]
    axes.errorbar(x, values, yerr=[below, above], color=colour, marker="o", capsize=3, label=label)
