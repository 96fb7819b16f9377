"""Reports of evaluations, kept after the folders of their runs are deleted, and their figures for display.

Reads `evaluation.json`. Imports no torch.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.template.loader import render_to_string

from distillation import folders
from distillation.models import Run
from distillation.resumable import atomic

FIGURES, ACTIVE = "evaluation.json", "active.json"
REPORT, COMPARED = "report.html", "compared.webp"
PLOTS = ("attributes.png", "diversity.png", "clip.png", "speed.png")
SHEETS = ("sheet.webp", "worst.webp")
PROMPTS = '<h2 id="prompts">'  # heading of the last section of a report
# By stage: files and their names in the report.
KEPT: Mapping[str, Mapping[str, str]] = {
    "evaluation": {name: name for name in (FIGURES, REPORT, *SHEETS, *PLOTS)},
    "incumbent": {FIGURES: ACTIVE},
    "gate": {COMPARED: COMPARED},
}


def keep(release: str, stages: Mapping[str, Path | None]) -> bool:
    """Copy the files of the evaluation of this release for display. Return False if there was no evaluation.

    stages: the existing folders of its run by stage.
    """
    found = {
        kept: place / file
        for stage, files in KEPT.items()
        if (place := stages.get(stage)) is not None
        for file, kept in files.items()
        if (place / file).is_file()
    }
    if FIGURES not in found:
        return False

    def make(folder: Path) -> None:
        folder.mkdir()
        for name, source in found.items():
            shutil.copyfile(source, folder / name)

    atomic.make_folder(folders.report(release), make)
    return True


def keep_of(run: Run) -> bool:
    """Keep the report of a run whose stages still exist, unless it is kept already."""
    if (folders.report(run.name) / FIGURES).is_file():
        return True
    return keep(run.name, {name: folders.stage(run, name) for name in KEPT})


def add_prompts(release: str, prompts: Mapping[str, Any]) -> None:
    """Write the changes by prompt (`prompt_changes.of`) into the kept report, once; nothing if no report is kept."""
    path = folders.report(release) / REPORT
    if not path.is_file():
        return
    page = path.read_text("utf-8")
    shown = render_to_string("distillation/admin/prompts.html", {"prompts": prompts}).strip()
    end = page.rfind("</body>")
    end = len(page) if end < 0 else end
    start = page.rfind(PROMPTS, 0, end)
    heading = f"{PROMPTS}Prompts before and after</h2>"
    section = f"{heading}\n{shown or '<p>No prompt changes its release.</p>'}\n"
    atomic.write_file(path, page[: end if start < 0 else start] + section + page[end:])


# --- reading --------------------------------------------------------------------------------------
@dataclass(frozen=True)
class OfVariant:
    """right: share of correct images, by release; changes: candidate minus the other, None if not judged.

    The other is the active release if it covers the variant, otherwise the teacher.
    """

    slug: str
    text: str
    right: Mapping[str, float | None]
    right_change: float | None
    clip_change: float | None
    spread_ratio: float | None
    distance: float | None
    is_new: bool  # not covered by the active release


ORDERS: Mapping[str, Callable[[OfVariant], tuple[Any, ...]]] = {  # worst first
    "right": lambda row: (_low(row.right_change), _low(row.clip_change), row.slug),
    "clip": lambda row: (_low(row.clip_change), row.slug),
    "diversity": lambda row: (_low(row.spread_ratio), row.slug),
    "distance": lambda row: (-(row.distance or 0.0), row.slug),
    "prompt": lambda row: (row.slug,),
}


@dataclass(frozen=True)
class Report:
    """figures, active: `evaluation.json` of the candidate, and of the active release it may replace."""

    folder: Path
    figures: Mapping[str, Any]
    active: Mapping[str, Any] | None

    @property
    def files(self) -> tuple[str, ...]:
        names = (COMPARED, *SHEETS, *PLOTS, REPORT)
        return tuple(name for name in names if (self.folder / name).is_file())

    def variants(self, order: str) -> list[OfVariant]:
        """Return the variants in an order of ORDERS."""
        known = {} if self.active is None else {p["slug"]: p for p in self.active["per_prompt"]}
        rows = [
            _of_variant(prompt, known.get(prompt["slug"])) for prompt in self.figures["per_prompt"]
        ]
        return sorted(rows, key=ORDERS[order])


def read(release: str) -> Report | None:
    """Return the report; None if there is none or it cannot be read."""
    folder = folders.report(release)
    figures = _json(folder / FIGURES)
    return None if figures is None else Report(folder, figures, _json(folder / ACTIVE))


def figures(folder: Path) -> dict[str, Any] | None:
    """Return the figures that an evaluation wrote into the folder; None if there are none."""
    return _json(folder / FIGURES)


def _json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) and "per_prompt" in value else None


def _of_variant(ours: Mapping[str, Any], active: Mapping[str, Any] | None) -> OfVariant:
    """Return the row of a prompt. active: the same prompt in the evaluation of the active release."""

    def value(prompt: Mapping[str, Any] | None, measure: str, side: str) -> float | None:
        pair = None if prompt is None else prompt[measure]
        return None if pair is None else pair[side]

    def change(measure: str) -> float | None:
        mine = value(ours, measure, "student")
        other = value(active, measure, "student")
        other = value(ours, measure, "teacher") if other is None else other
        return None if mine is None or other is None else mine - other

    spread, of_teacher = (value(ours, "spread", side) for side in ("student", "teacher"))
    return OfVariant(
        slug=ours["slug"],
        text=ours["text"],
        right={
            "candidate": value(ours, "right", "student"),
            "active": value(active, "right", "student"),
            "teacher": value(ours, "right", "teacher"),
        },
        right_change=change("right"),
        clip_change=change("clip_score"),
        spread_ratio=spread / of_teacher if spread is not None and of_teacher else None,
        distance=ours["distance"],
        is_new=active is None,
    )


def _low(value: float | None) -> float:
    """Return a sort key that puts missing values last."""
    return float("inf") if value is None else value
