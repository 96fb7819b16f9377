"""Loss curves and sample sheets of a run, read from its folders for display. Imports no torch."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from distillation import folders
from distillation.models import Run

POINTS = 200  # per curve
STEPPED = (
    "decoder",
    "structure",
    "regression",
    "matching",
    "joint",
    "quantise",
)  # stages with curves
LOSS = "loss"
METRICS = "metrics.jsonl"
SHEET, SHEET_FACTS = "samples.webp", "samples.json"


@dataclass(frozen=True)
class Curve:
    """Loss curve of one stage. steps, values: at most POINTS each."""

    stage: str
    steps: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Sheet:
    """Images of a student in training, below its teacher's. texts: their prompts."""

    stage: str
    step: int
    steps: int
    texts: tuple[str, ...]
    path: Path
    version: str  # another one for other pictures


def curves(run: Run) -> list[Curve]:
    """Return the curves of the stages that have started, in order."""
    found = []
    for stage in STEPPED:
        place = folders.stage(run, stage)
        curve = None if place is None else _curve(stage, place / METRICS)
        if curve is not None:
            found.append(curve)
    return found


def sheet(run: Run) -> Sheet | None:
    """Return the latest sample sheet."""
    for stage in reversed(STEPPED):
        place = folders.stage(run, stage)
        found = None if place is None else _sheet(stage, place)
        if found is not None:
            return found
    return None


def _sheet(stage: str, place: Path) -> Sheet | None:
    path = place / SHEET
    try:
        facts = json.loads((place / SHEET_FACTS).read_text("utf-8"))
        version = f"{path.stat().st_mtime_ns:x}"
        texts = tuple(map(str, facts["texts"]))
        return Sheet(stage, int(facts["step"]), int(facts["steps"]), texts, path, version)
    except (OSError, ValueError, KeyError, TypeError):
        return None  # none yet


def _curve(stage: str, path: Path) -> Curve | None:
    points = []
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    value = json.loads(line)
                    points.append((int(value["step"]), float(value[LOSS])))
                except (ValueError, KeyError, TypeError):
                    continue  # incomplete, or without a loss
    except OSError:
        return None
    chosen = _thinned(points)
    if len(chosen) < 2:
        return None
    steps, values = zip(*chosen, strict=True)
    return Curve(stage, steps, values)


def _thinned(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Average neighbouring points if there are many."""
    size = -(-len(points) // POINTS)
    groups = [points[start : start + size] for start in range(0, len(points), size or 1)]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]
