"""Owns how a recipe is changed: by the names of its fields, from JSON or a command line. Knows not what they mean.

Recipes are frozen dataclasses of numbers, texts, tuples and other recipes. What does not fit is refused by its name.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass, replace
from typing import Any, TypeVar, get_args, get_type_hints

from distillation.trainers.errors import RecipeRefused
from distillation.trainers.objectives.methods import METHODS

Recipe = TypeVar("Recipe")


def changed(recipe: Recipe, changes: Mapping[str, Any], *, place: str = "") -> Recipe:
    """A copy with other values: {"pairs": {"batch": 8}}. Raises RecipeRefused, which names the field."""
    if not is_dataclass(recipe) or isinstance(recipe, type):
        raise TypeError(f"{recipe!r} is no recipe.")
    known = get_type_hints(type(recipe))
    values = {}
    for name, value in changes.items():
        path = f"{place}{name}"
        if name not in known:
            raise RecipeRefused(
                f"{path} is no field of the recipe. There are: {', '.join(place + n for n in sorted(known))}."
            )
        if value is None and type(None) not in get_args(known[name]):
            raise RecipeRefused(f"{path} cannot be null; it is {getattr(recipe, name)!r} now.")
        present = getattr(recipe, name)
        if present is None and isinstance(value, Mapping):
            present = _left_out(known[name])
        values[name] = _value(present, value, path)
    try:
        return replace(recipe, **values)
    except ValueError as error:
        raise RecipeRefused(f"{place}{error!s}") from error


def _left_out(hint: Any) -> Any:
    """The part that a recipe left out, with its defaults, now that one of its fields is set; None if there is none."""
    kinds: list[Any] = [kind for kind in get_args(hint) if is_dataclass(kind)]
    return kinds[0]() if kinds else None


def _value(present: Any, value: Any, path: str) -> Any:
    """`value`, if it is of the kind of what is there."""
    if is_dataclass(present):
        return _part(present, value, path)
    if isinstance(value, list | tuple):
        if not isinstance(present, tuple | None):
            raise _of_another_kind(present, value, path)
        return tuple(tuple(part) if isinstance(part, list) else part for part in value)
    if value is None or (present is None and isinstance(value, int | float | str)):
        return value
    if isinstance(present, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not type(present):
        raise _of_another_kind(present, value, path)
    return value


def _part(present: Any, value: Any, path: str) -> Any:
    """A recipe inside a recipe: left out, changed, or for a method with other fields made anew."""
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise RecipeRefused(f"{path} has fields of its own: set {path}.FIELD.")
    if "method" in value and value["method"] != getattr(present, "method", None):
        kind = METHODS.get(value["method"]) if isinstance(value["method"], str) else None
        if kind is None:
            raise RecipeRefused(
                f"{path}.method must be one of {', '.join(METHODS)}, not {value['method']!r}."
            )
        return changed(kind(), value, place=f"{path}.")
    return changed(present, value, place=f"{path}.")


def _of_another_kind(present: Any, value: Any, path: str) -> RecipeRefused:
    kind = "a list" if isinstance(present, tuple) else f"a {type(present).__name__}"
    if present is None:
        kind = "a number or a text"
    return RecipeRefused(f"{path} takes {kind} (it is {present!r} now), not {value!r}.")


def parse(settings: Sequence[str]) -> dict[str, Any]:
    """Changes from texts "structure.steps=100". The value is JSON, or text where it is not. Raises RecipeRefused."""
    changes: dict[str, Any] = {}
    for setting in settings:
        path, equals, text = setting.partition("=")
        names = path.split(".")
        if not equals or not all(names):
            raise RecipeRefused(f"{setting!r}: give FIELD=VALUE, such as structure.steps=100.")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        place = changes
        for name in names[:-1]:
            place = place.setdefault(name, {})
            if not isinstance(place, dict):
                raise RecipeRefused(f"{path} is given twice.")
        if names[-1] in place:
            raise RecipeRefused(f"{path} is given twice.")
        place[names[-1]] = value
    return changes
