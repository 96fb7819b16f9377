"""What the files in a run's folders say of its training, for people who watch it. Reads; needs no tensor library."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings

from distillation.models import Run

POINTS = 200  # of a curve
STEPPED = ("decoder", "structure", "regression", "matching", "joint", "quantise")  # have curves
LOSS = "loss"
METRICS = "metrics.jsonl"
REPORT = "report.html"


@dataclass(frozen=True)
class Curve:
    """The loss of one stage. steps, values: at most POINTS of them."""

    stage: str
    steps: tuple[int, ...]
    values: tuple[float, ...]


def folder(run: Run, stage: str) -> Path | None:
    """Of the stage, if it has begun."""
    name = run.folders.get(stage)
    found = Path(settings.DATA_DIR) / "distillation" / name if name else None
    return found if found is not None and found.is_dir() else None


def curves(run: Run) -> list[Curve]:
    """Of the stages that have begun, in their order."""
    found = []
    for stage in STEPPED:
        place = folder(run, stage)
        curve = None if place is None else _curve(stage, place / METRICS)
        if curve is not None:
            found.append(curve)
    return found


def _curve(stage: str, path: Path) -> Curve | None:
    points = []
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    value = json.loads(line)
                    points.append((int(value["step"]), float(value[LOSS])))
                except (ValueError, KeyError, TypeError):
                    continue  # being written, or without a loss of its own
    except OSError:
        return None
    chosen = _thinned(points)
    if len(chosen) < 2:
        return None
    steps, values = zip(*chosen, strict=True)
    return Curve(stage, steps, values)


def _thinned(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Means of neighbours where there are many."""
    size = -(-len(points) // POINTS)
    groups = [points[start : start + size] for start in range(0, len(points), size or 1)]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]
