"""The table of the methods of structural training, and recipes read by it. Knows no loss."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from distillation.trainers.objectives.bayes import BayesRecipe
from distillation.trainers.objectives.ensemble import EnsembleRecipe
from distillation.trainers.objectives.guidance import GuidanceRecipe
from distillation.trainers.objectives.hinton import HintonRecipe
from distillation.trainers.objectives.mmd import MmdRecipe

MethodRecipe = GuidanceRecipe | HintonRecipe | EnsembleRecipe | MmdRecipe | BayesRecipe

METHODS: dict[str, type[MethodRecipe]] = {
    "guidance": GuidanceRecipe,
    "hinton": HintonRecipe,
    "ensemble": EnsembleRecipe,
    "mmd": MmdRecipe,
    "bayes": BayesRecipe,
}


def recipe_of(values: Mapping[str, Any]) -> MethodRecipe:
    """Of JSON values, by their `method`. Raises ValueError, which names the field, also for one of another method."""
    name = values.get("method")
    kind = METHODS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, not {name!r}.")
    usual = asdict(kind())
    if unknown := sorted(set(values) - set(usual)):
        raise ValueError(
            f"{', '.join(unknown)} is no field of the method {name}. Its fields: {', '.join(usual)}."
        )
    given: dict[str, Any] = {}
    for field, value in values.items():
        given[field] = tuple(value) if isinstance(value, list) else value
        if not _is_alike(given[field], usual[field]):
            raise ValueError(f"{field} is {usual[field]!r} if not given, so not {value!r}.")
    return kind(**given)


def _is_alike(value: Any, usual: Any) -> bool:
    """Whether a field with this usual value can take the value; None stands for a number that is not given."""
    if isinstance(value, bool):
        return False
    if usual is None:
        return value is None or isinstance(value, int | float)
    return isinstance(value, int | float if isinstance(usual, float) else type(usual))
