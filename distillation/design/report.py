"""Files of a finished design: the plot of its front, the table with its sheets, a CSV, the recipe of the choice."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from distillation.design import front, halving, table, verdict
from distillation.design.candidates import Candidate, Costs, Judged
from distillation.design.descriptions import merged
from distillation.design.files import CSV, FACTS, MARKDOWN, PNG, RECIPE, REPORT, SVG, sheet
from distillation.design.front import Choice
from distillation.design.halving import SHARES
from distillation.design.limits import Limits, shown
from distillation.design.search import SearchRequest
from distillation.design.space import Space
from distillation.evaluation.report import document, plots
from distillation.resumable import atomic

TEMPLATE = Path(__file__).with_name("templates") / "design.j2"
HEADS = (
    "candidate", "student", "passes", "decoder", "method", "weights", "size", "time", "memory", "quality",
    "training", "on the front",
)  # fmt: skip


@dataclass(frozen=True)
class Reference:
    """The student to compare with, measured on the same device and seeds."""

    name: str
    costs: Costs
    judged: Judged


@dataclass(frozen=True)
class Row:
    """A candidate in the table. sheet: the file of its pictures, "" if it was not judged."""

    number: int
    cells: tuple[str, ...]
    sheet: str
    is_on_front: bool


def write(
    folder: Path,
    *,
    title: str,
    description: Mapping[str, Any],
    request: SearchRequest,
    space: Space,
    candidates: Sequence[Candidate],
    reference: Reference | None = None,
) -> Choice:
    """Write all files but the sheets into the folder, and return the choice.

    description: of the recipe that the search began with, {"recipe": NAME, FIELD: VALUE, …}.
    """
    folder.mkdir(parents=True, exist_ok=True)
    choice = front.choose(candidates, request.limits, request.wish)
    best = front.front(candidates)
    drawing = _plot(folder, candidates, best, choice, request.limits, reference) if best else ""
    if choice.number is not None:
        [chosen] = [one for one in candidates if one.number == choice.number]
        recipe = merged(description, space.changes(chosen.params))
        atomic.write_file(folder / RECIPE, json.dumps(recipe, indent=2) + "\n")
    atomic.write_file(folder / CSV, _csv(candidates, best, request.limits))
    atomic.write_file(folder / FACTS, _facts(candidates, best, choice, request, reference))
    data: dict[str, Any] = {
        "title": title,
        "choice": choice,
        "request": _request(request),
        "recipe_file": str(folder / RECIPE),
        "drawing": drawing,
        "heads": HEADS,
        "candidates": [
            _row(one, is_on_front=one in best) for one in candidates if one.costs is not None
        ],
        "reference": _compared(reference, candidates, choice),
        "nearest": [
            f"{each.name}: candidate {each.number} has {shown(each.name, each.value)}, the limit is "
            f"{shown(each.name, each.limit)}."
            for each in front.nearest(candidates, request.limits)
        ],
        "agreement": agreement(candidates),
        "refused": [f"Candidate {one.number}: {one.refused}" for one in candidates if one.refused],
    }
    markdown = document.markdown(TEMPLATE, data | {"is_html": False})
    atomic.write_file(folder / MARKDOWN, markdown)
    page = document.html(TEMPLATE, data | {"is_html": True}, images=folder)
    atomic.write_file(folder / REPORT, page)
    return choice


def agreement(candidates: Sequence[Candidate]) -> list[str]:
    """Return sentences on how well each rung's ranking of the candidates agrees with the next rung's."""
    found = []
    for rung in range(halving.TOP):
        of = f"{100 * SHARES[rung]:.0f} % and {100 * SHARES[rung + 1]:.0f} % of the training"
        quality, count = halving.agreement(candidates, rung, lambda judged: judged.quality)
        score, _ = halving.agreement(candidates, rung, lambda judged: judged.score)
        values = [
            f"{value:.2f} {words}"
            for value, words in ((quality, "by quality"), (score, "by the rung's score"))
            if value is not None
        ]
        if values:
            found.append(f"{of}: rank correlation {', '.join(values)}, over {count} candidates.")
        elif count:
            found.append(f"{of}: {count} in both, too few or too equal for a rank correlation.")
    return found or ["No candidate was trained for two rungs."]


# --- texts ----------------------------------------------------------------------------------------
def _request(request: SearchRequest) -> str:
    limits = [f"{name} {shown(name, value)}" for name, value in request.limits.as_json().items()]
    return (
        f"Limits: {', '.join(limits) or 'none'}; wish: {request.wish}; device: {request.device}; "
        f"runtime: {request.runtime}; "
        f"{request.hours:g} hours."
    )


def _row(candidate: Candidate, *, is_on_front: bool) -> Row:
    row = {**table.cells(candidate), "on the front": "yes" if is_on_front else ""}
    last = candidate.last
    pictures = sheet(candidate.number) if last is not None else ""
    return Row(candidate.number, tuple(row[head] for head in HEADS), pictures, is_on_front)


def _compared(reference: Reference | None, candidates: Sequence[Candidate], choice: Choice) -> str:
    """Return sentences that compare the reference student with the choice; "" without one."""
    if reference is None:
        return ""
    costs, judged = reference.costs, reference.judged
    own = (
        f"{reference.name}, measured on the same device and seeds: {shown('size', costs.size)}"
        + (f", {shown('time', costs.time)}" if costs.time else "")
        + f", quality {judged.quality:.3f} ({judged.low:.3f} to {judged.high:.3f}), after its whole training."
    )
    chosen = next((one for one in candidates if one.number == choice.number), None)
    if chosen is None or chosen.costs is None or chosen.last is None:
        return own
    rung = chosen.last.rung
    count = sum(len(one.rungs) > rung for one in candidates)
    found = verdict.of((chosen.costs, chosen.last), (costs, judged), chosen_from=count)
    factors = [f"{found.smaller:.2f} times smaller"]
    if found.faster is not None:
        factors.append(f"{found.faster:.2f} times faster")
    points = ""
    if found.points is not None:
        value, low, high = found.points
        points = f"; its share of right pictures differs by {value:+.1f} points ({low:+.1f} to {high:+.1f})"
    return (
        f"{own} After {100 * chosen.last.share:.0f} % of its training the choice is {' and '.join(factors)}{points}. "
        f"{found.sentence}"
    )


def _facts(
    candidates: Sequence[Candidate],
    best: Sequence[Candidate],
    choice: Choice,
    request: SearchRequest,
    reference: Reference | None,
) -> str:
    """Return everything as JSON, for programs."""
    values = {
        "order": asdict(request),
        "choice": asdict(choice),
        "front": [one.number for one in best],
        "agreement": agreement(candidates),
        "reference": None if reference is None else asdict(reference),
        "candidates": [{"number": one.number, **one.as_json()} for one in candidates],
    }
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


def _csv(candidates: Sequence[Candidate], best: Sequence[Candidate], limits: Limits) -> str:
    out = io.StringIO()
    writer: csv.DictWriter[str] | None = None
    for one in candidates:
        costs, last = one.costs, one.last
        values = {
            "candidate": one.number,
            **one.params,
            "size_bytes": costs and costs.size,
            "time_seconds": costs and costs.time,
            "memory_bytes": costs and costs.memory,
            "device": costs and costs.device,
            "is_within_limits": costs and costs.are_within(limits),
            "is_on_front": one in best,
            "training_share": last and round(last.share, 4),
            "quality": last and last.quality,
            "quality_low": last and last.low,
            "quality_high": last and last.high,
            "distance": last and last.distance,
            "pictures": last and last.pictures,
            "refused": one.refused,
        }
        if writer is None:
            writer = csv.DictWriter(out, list(values), lineterminator="\n")
            writer.writeheader()
        writer.writerow(values)
    return out.getvalue()


# --- the plot -------------------------------------------------------------------------------------
def _plot(
    folder: Path,
    candidates: Sequence[Candidate],
    best: Sequence[Candidate],
    choice: Choice,
    limits: Limits,
    reference: Reference | None,
) -> Markup:
    """Draw size and time against quality. Return the SVG, in which each point has a title and links to its sheet."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained", sharey=True)
    judged = [one for one in candidates if one.last is not None and one.costs is not None]
    for panel, name, scale, unit in zip(
        axes, ("size", "time"), (1e6, 1e-3), ("MB", "ms"), strict=True
    ):
        _panel(panel, name, scale, judged, best, choice)
        limit = getattr(limits, name)
        if limit is not None:
            panel.axvline(limit / scale, color="black", linestyle="--", linewidth=0.8)
        if limits.quality is not None:
            panel.axhline(limits.quality, color="black", linestyle="--", linewidth=0.8)
        if reference is not None and (value := getattr(reference.costs, name)) is not None:
            panel.scatter(
                [value / scale], [reference.judged.quality], marker="*", s=120,
                color=plots.ORANGE, label=reference.name, zorder=4,
            )  # fmt: skip
        panel.set(xlabel=f"{name} ({unit})")
    axes[0].set(ylabel="quality: right pictures, student ÷ teacher")
    figure.savefig(folder / SVG)
    plots.save(figure, folder / PNG)
    drawing = (folder / SVG).read_text("utf-8")
    for one in judged:
        for name in ("size", "time"):
            group = f'<g id="{_group(one, name)}">'
            drawing = drawing.replace(group, f"{group}<title>{escape(_title(one))}</title>")
    atomic.write_file(folder / SVG, drawing)
    return Markup(drawing[drawing.index("<svg") :])  # without the prologue of a file


def _group(candidate: Candidate, name: str) -> str:
    return f"candidate-{candidate.number}-{name}"


def _title(candidate: Candidate) -> str:
    """Return what is shown where one points at a candidate."""
    return "; ".join(f"{head}: {cell}" for head, cell in table.cells(candidate).items())


def _panel(
    axes: Axes,
    name: str,
    scale: float,
    judged: Sequence[Candidate],
    best: Sequence[Candidate],
    choice: Choice,
) -> None:
    for one in judged:
        value, last = getattr(one.costs, name), one.last
        if value is None or last is None:
            continue
        point = axes.scatter(
            [value / scale],
            [last.quality],
            s=18 + 22 * last.rung,
            color=plots.BLUE if one in best else plots.GREY,
            edgecolors=plots.ORANGE if one.number == choice.number else "none",
            linewidths=2,
            zorder=3,
        )
        point.set_urls([sheet(one.number)])
        point.set_gid(_group(one, name))
        axes.annotate(
            str(one.number), (value / scale, last.quality), xytext=(4, 3),
            textcoords="offset points", fontsize=7,
        )  # fmt: skip
    line = sorted(
        (getattr(one.costs, name) / scale, one.last.quality)
        for one in best
        if one.last is not None and getattr(one.costs, name) is not None
    )
    # The front of this panel's two measures: a point that is on the front only by the third is not on the line.
    steps: list[tuple[float, float]] = []
    for value, quality in line:
        if not steps or quality > steps[-1][1]:
            steps.append((value, quality))
    axes.step(*zip(*steps, strict=True), where="post", color=plots.BLUE, linewidth=1)
