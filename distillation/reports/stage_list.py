"""List of a run's stages for display: purpose, share of the time, progress. Imports no torch."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from distillation import folders
from distillation.models import Run
from distillation.resumable import stages

# Shares of a run's time in the order of the stages, measured on the starter. Without the stages that a run lacks they
# are normalised.
SHARES: Mapping[str, float] = {
    "pairs": 30, "start": 0.1, "decoder": 11, "structure": 17, "regression": 13, "matching": 12, "joint": 16,
    "quantise": 2, "bundle": 0.1, "evaluation": 12, "incumbent": 3, "gate": 1, "release": 0.1,
}  # fmt: skip
# A run that continues a student reuses most pairs: only those of new variants are made.
WARM_SHARES = {**SHARES, "pairs": 3}
WORDS = {
    "pairs": "Generation of training pictures by the teacher",
    "decoder": "Training of a small decoder",
    "structure": "Training of the cut student",
    "regression": "Training to reach the picture in few passes",
    "matching": "Training against a discriminator",
    "start": "Unpacking of the student to continue",
    "joint": "Training of student and decoder together",
    "quantise": "Quantisation of the weights",
    "bundle": "Writing of the release's files",
    "evaluation": "Measurement against the teacher",
    "incumbent": "Measurement of the active release",
    "gate": "Decision whether it is good enough",
    "release": "Completion of the release",
}
EARLIER = 5  # runs; the folders of most are deleted
FINISHED, CURRENT, STOPPED, WAITING = "finished", "running", "stopped", "waiting"


@dataclass(frozen=True)
class StageState:
    """share: of the run's time, percent; percent: progress of the stage; seconds: spent in it, None = none yet.

    left: seconds that an open run still needs for it, by earlier runs of the same recipe; None = finished, or unknown.
    """

    name: str
    words: str
    share: float
    state: str
    percent: float
    seconds: float | None
    left: float | None = None


def shares(names: Collection[str]) -> Mapping[str, float]:
    """Return the shares for a run that has these stages."""
    return WARM_SHARES if "start" in names else SHARES


def of(run: Run) -> list[StageState]:
    """Return the stages of the run in order; empty before its first slice."""
    names = [name for name in SHARES if name in run.folders]
    weights = shares(names)
    whole = sum(weights[name] for name in names) or 1.0
    is_over = run.status == Run.Status.SUCCEEDED
    done = {name for name in names if is_over or _is_done(run, name)}
    spent = sum(weights[name] for name in done)
    found = []
    earlier = _earlier(run) if run.is_open else {}
    for name in names:
        at = CURRENT if run.is_open else STOPPED
        state = FINISHED if name in done else at if name == run.stage else WAITING
        part = (run.percent / 100 * whole - spent) / weights[name] if state == at else 0.0
        percent = 100.0 if name in done else 100 * min(1.0, max(0.0, part))
        share = 100 * weights[name] / whole
        expected = None if name in done else earlier.get(name)
        left = None if expected is None else expected * (1 - percent / 100)
        seconds = _seconds(run, name)
        found.append(StageState(name, WORDS[name], share, state, percent, seconds, left))
    return found


def _earlier(run: Run) -> dict[str, float]:
    """Return the seconds of each stage in the latest earlier run like this one whose folder still exists."""
    alike = Run.objects.filter(
        status=Run.Status.SUCCEEDED,
        recipe=run.recipe,
        tags=run.tags,
        begins_with__isnull=run.begins_with_id is None,
    )
    found: dict[str, float] = {}
    for before in alike.order_by("-finished_at")[:EARLIER]:
        times = {name: _seconds(before, name) for name in run.folders}
        found = {name: value for name, value in times.items() if value is not None} | found
    return found


def _is_done(run: Run, name: str) -> bool:
    folder = folders.stage(run, name)
    return folder is not None and (folder / stages.DONE).is_file()


def _seconds(run: Run, name: str) -> float | None:
    """Return the seconds that were spent in the stage, possibly by another run; None before it started."""
    folder = folders.stage(run, name)
    if folder is None:
        return None
    for file in (stages.DONE, stages.SECONDS):
        try:
            value = json.loads((folder / file).read_text("utf-8"))["seconds"]
            return float(value)
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None
