"""Number of steps that a method makes in a given time, from a short training that is timed once."""

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path

from distillation.resumable import atomic, stages
from distillation.trainers import structure
from distillation.trainers.inputs import StageInputs
from distillation.trainers.objectives.methods import MethodRecipe
from distillation.trainers.structure import StructureRecipe
from distillation.trainers.student import StudentRecipe
from distillation.training import loop
from distillation.training.errors import RecipeRefused

STEPS = 40  # of the timed training; its curve has a line for every ten


@dataclass(frozen=True)
class Pace:
    """Seconds before the first step, during which `bayes` estimates the posterior, and seconds per step."""

    before: float
    step: float

    def steps(self, seconds: float) -> int:
        """Return the number of steps that fit into the time. Raises RecipeRefused if none does."""
        count = int((seconds - self.before) / self.step)
        if count < 1:
            raise RecipeRefused(
                f"minutes: {seconds / 60:g} are too few: before its first step the training takes {self.before:.0f} "
                f"seconds, and each step {self.step:.2f}."
            )
        return count


class Calibration:
    """Paces of settings, kept in a file, so that a resumed comparison keeps its numbers of steps."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def pace(
        self,
        recipe: StructureRecipe,
        inputs: Callable[[], StageInputs],
        *,
        student_recipe: StudentRecipe,
    ) -> Pace:
        """Return the pace of the recipe's method, timed if the file lacks it.

        inputs: called only if the pace is timed, because it reads the pairs; the folder of its result is not used.
        """
        kept = json.loads(self._path.read_text("utf-8")) if self._path.exists() else {}
        key = setting_key(recipe.objective)
        if key not in kept:
            kept[key] = asdict(_timed(recipe, inputs(), student_recipe))
            self._path.parent.mkdir(parents=True, exist_ok=True)
            atomic.write_file(self._path, json.dumps(kept, indent=2) + "\n")
        return Pace(**kept[key])


def setting_key(setting: MethodRecipe) -> str:
    return f"{setting.method}-{stages.key_of(setting)}"


def _timed(recipe: StructureRecipe, inputs: StageInputs, student_recipe: StudentRecipe) -> Pace:
    short = replace(recipe, steps=STEPS, warmup=0)
    with tempfile.TemporaryDirectory(prefix="retort-calibration-") as temporary:
        folder = Path(temporary)
        began = time.monotonic()
        structure.train(short, replace(inputs, folder=folder), student_recipe=student_recipe)
        whole = time.monotonic() - began
        text = (folder / loop.METRICS).read_text("utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    # The fastest ten steps: other load slows some of them, and the first ones fill caches.
    step = min(
        (after["seconds"] - before["seconds"]) / (after["step"] - before["step"])
        for before, after in pairwise(lines)
    )
    return Pace(round(max(0.0, whole - lines[-1]["seconds"]), 3), max(round(step, 6), 1e-6))
