"""The committed history of the stages: loss curves and training times."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from graphlib import TopologicalSorter
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
    """curves: file of logged losses by stage; times: of all stages. Stages follow those that they need."""

    curves: Mapping[str, Path]
    times: tuple[StageTime, ...]

    @staticmethod
    def read(folder: Path) -> "History":
        """Read the loss curves, `<stage>.jsonl`, and the records, `<stage>.json`. Raises HistoryUnusable."""
        if not folder.is_dir():
            raise HistoryUnusable(
                f"{folder} is missing. Run `make starter`, which writes it together with the teacher."
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
                    f"{path} is not the record of a stage: {error!r}. Run `make starter` to write it again."
                ) from error
        order = list(TopologicalSorter(needs).static_order())
        order += sorted(curves.keys() - needs.keys())  # of unfinished stages
        return History(
            {stage: curves[stage] for stage in order if stage in curves},
            tuple(times[stage] for stage in order if stage in times),
        )
