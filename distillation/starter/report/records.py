"""What the committed history says of the stages: their loss curves and their times. Knows no stage and no training."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any


class HistoryUnusable(Exception):
    """A file of the history cannot be read."""


@dataclass(frozen=True)
class StageTime:
    """seconds: of all sessions together; machine: CPU model, cores, torch version."""

    stage: str
    seconds: float
    machine: Mapping[str, Any]


@dataclass(frozen=True)
class History:
    """curves: by stage, the file of its logged losses; times: of all stages; both with what a stage needs before it."""

    curves: Mapping[str, Path]
    times: tuple[StageTime, ...]

    @staticmethod
    def read(folder: Path) -> "History":
        """`<stage>.jsonl` are curves and `<stage>.json` what a finished stage leaves. Raises HistoryUnusable."""
        if not folder.is_dir():
            raise HistoryUnusable(
                f"{folder} is missing. `make starter` writes it with the teacher."
            )
        curves = {path.stem: path for path in sorted(folder.glob("*.jsonl"))}
        times, needs = {}, {}
        for path in sorted(folder.glob("*.json")):
            try:
                done = json.loads(path.read_text("utf-8"))
                times[path.stem] = StageTime(
                    path.stem, float(done["seconds"]), dict(done["machine"])
                )
                needs[path.stem] = set(done["needs"])
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise HistoryUnusable(
                    f"{path} does not say how a stage was built: {error!r}. `make starter` writes it anew."
                ) from error
        try:
            order = list(TopologicalSorter(needs).static_order())
        except CycleError as error:
            raise HistoryUnusable(f"The stages in {folder} need each other in a circle.") from error
        order += sorted(curves.keys() - needs.keys())  # of stages that never finished
        return History(
            {stage: curves[stage] for stage in order if stage in curves},
            tuple(times[stage] for stage in order if stage in times),
        )
