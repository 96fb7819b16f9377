"""Table of the methods to compare, with the values of each one's main weight to try."""

from collections.abc import Sequence
from dataclasses import fields, replace

from distillation.trainers.objectives.bayes import BayesRecipe
from distillation.trainers.objectives.ensemble import EnsembleRecipe
from distillation.trainers.objectives.guidance import GuidanceRecipe, ScratchRecipe
from distillation.trainers.objectives.hinton import HintonRecipe
from distillation.trainers.objectives.methods import MethodRecipe
from distillation.trainers.objectives.mmd import MmdRecipe
from distillation.training.errors import RecipeRefused

SQUARED = (
    "squared"  # the baseline: the squared error to the guided teacher alone, which has no weight
)
ENSEMBLE = "ensemble"

# In the order in which they are tried: the recipe's own first.
SETTINGS: dict[str, tuple[MethodRecipe, ...]] = {
    SQUARED: (GuidanceRecipe(feature_weight=0.0),),
    "guidance": tuple(
        GuidanceRecipe(feature_weight=weight) for weight in (1.0, 0.3, 3.0, 0.1, 10.0)
    ),
    "hinton": tuple(HintonRecipe(temperature=value) for value in (1.0, 0.5, 2.0, 0.25, 4.0)),
    ENSEMBLE: tuple(EnsembleRecipe(variance=value) for value in (0.02, 0.005, 0.08, 0.001, 0.3)),
    "mmd": tuple(
        MmdRecipe(kernel=kernel, mmd_weight=weight)
        for kernel, weight in (
            ("polynomial", 1.0), ("gaussian", 10.0), ("polynomial", 10.0), ("linear", 10.0), ("gaussian", 1.0),
        )
    ),
    "bayes": tuple(BayesRecipe(beta=value) for value in (1e-2, 1e-3, 1e-1, 1e-4, 1.0)),
    "scratch": (ScratchRecipe(),),
}  # fmt: skip
MAX_TRIALS = max(map(len, SETTINGS.values()))


def chosen(
    names: Sequence[str], *, trials: int, teachers: Sequence[str]
) -> dict[str, tuple[MethodRecipe, ...]]:
    """Return the settings of the baseline and the named methods by name; of all usable methods if none is named.

    trials: number of settings per method. teachers: folders of releases, for the method ensemble. Raises RecipeRefused.
    """
    if unknown := sorted(set(names) - set(SETTINGS)):
        raise RecipeRefused(
            f"methods: there is no {', '.join(unknown)}. There are {', '.join(SETTINGS)}."
        )
    if not 1 <= trials <= MAX_TRIALS:
        raise RecipeRefused(f"trials must lie from 1 to {MAX_TRIALS}, not {trials}.")
    wanted = names or [name for name in SETTINGS if teachers or name != ENSEMBLE]
    if ENSEMBLE in wanted and not teachers:
        raise RecipeRefused(
            "The method ensemble needs additional teachers: give --with-teacher RELEASE, one with the teacher's "
            "latents and noise schedule, such as a checkpoint of its own training; or leave the method out."
        )
    if teachers and ENSEMBLE not in wanted:
        raise RecipeRefused(
            "Only the method ensemble uses additional teachers: name it, or leave them out."
        )
    found = {name: SETTINGS[name][:trials] for name in SETTINGS if name in {SQUARED, *wanted}}
    if ENSEMBLE in found:
        found[ENSEMBLE] = tuple(
            replace(setting, teachers=tuple(teachers))
            for setting in found[ENSEMBLE]
            if isinstance(setting, EnsembleRecipe)
        )
    return found


def label(method: str, setting: MethodRecipe) -> str:
    """Return the fields in which the method's settings differ: "temperature 0.5"; "" if there is only one setting."""
    all_settings = SETTINGS[method]
    varied = [
        each.name
        for each in fields(setting)
        if len({getattr(one, each.name) for one in all_settings}) > 1
    ]
    return ", ".join(f"{name} {_text(getattr(setting, name))}" for name in varied)


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
