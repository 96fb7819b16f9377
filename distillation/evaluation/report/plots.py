"""The plots of an evaluation, as small PNG files. Knows no judge and no sentence: it draws what it is given."""

from collections import Counter
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # before pyplot: there may be no screen
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from distillation.evaluation.figures import Evaluation, Pair
from distillation.evaluation.latency import PARTS, Speed
from distillation.evaluation.report import number_format

DPI = 100
BLUE, ORANGE, GREY = "#1f5fa8", "#d1691f", "#9aa3ad"
LABELS = {"total": "whole picture", "unet": "U-Net", "decoder": "decoder", "file": "file"}


def draw(evaluation: Evaluation, folder: Path) -> dict[str, str]:
    """Files by name, those for which there are numbers: "attributes", "clip", "diversity", "speed"."""
    prompts = evaluation.per_prompt
    right = [prompt.right for prompt in prompts if prompt.right]
    scores = [prompt.clip_score for prompt in prompts if prompt.clip_score]
    ratios = [p.spread.student / p.spread.teacher for p in prompts if p.spread and p.spread.teacher]
    student, teacher = evaluation.student.speed, evaluation.teacher.speed
    drawn = {}
    if right:
        drawn["attributes"] = _named(_attributes(right), folder / "attributes.png")
    if scores:
        drawn["clip"] = _named(_clip(scores), folder / "clip.png")
    if ratios:
        figure = _diversity(ratios, evaluation.margins.diversity)
        drawn["diversity"] = _named(figure, folder / "diversity.png")
    if student and teacher:
        drawn["speed"] = _named(_speed(student, teacher), folder / "speed.png")
    return drawn


def save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=DPI)
    plt.close(figure)


def _named(figure: Figure, path: Path) -> str:
    save(figure, path)
    return path.name


def _attributes(right: list[Pair]) -> Figure:
    """Both curves from their best prompt to their worst, and each prompt by itself."""
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
    left.legend(fontsize=8)
    # Few seeds give few values: equal points become one whose area is their number.
    found = Counter((pair.teacher, pair.student) for pair in right)
    areas = [18 + 500 * count / len(right) for count in found.values()]
    middle.scatter(*zip(*found, strict=True), s=areas, color=BLUE, alpha=0.55, linewidths=0)
    _diagonal(middle, -0.05, 1.05)
    middle.set(xlabel="teacher, share right", ylabel="student, share right")
    middle.set_title("below the line the student lost; area: prompts", fontsize=9)
    for axes in (left, middle):
        axes.grid(alpha=0.25)
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
    axes.set_title("a point a prompt; below the line the student lost", fontsize=9)
    axes.grid(alpha=0.25)
    return figure


def _diversity(ratios: list[float], margin: float | None) -> Figure:
    figure, axes = plt.subplots(figsize=(6, 3.4), layout="constrained")
    axes.hist(ratios, bins=min(30, max(5, len(ratios) // 4)), color=BLUE, alpha=0.8)
    axes.axvline(1, color="black", linewidth=1, label="as the teacher")
    if margin is not None:
        axes.axvline(
            margin, color=ORANGE, linewidth=1.5, linestyle="--", label="margin of the mean"
        )
    axes.set(xlabel="diversity within a prompt, student ÷ teacher", ylabel="prompts")
    axes.set_xlim(0, 1.05 * max(1.0, *ratios))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8)
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
    axes.grid(alpha=0.25, axis="x")
    axes.legend(fontsize=8, loc="lower right")
    return figure


def _diagonal(axes: Axes, low: float, high: float) -> None:
    axes.plot([low, high], [low, high], color="black", linewidth=0.8)
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
