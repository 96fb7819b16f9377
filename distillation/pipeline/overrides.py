"""Overrides of a recipe's fields by their names, from JSON or a command line.

Recipes are frozen dataclasses of numbers, texts, tuples and other recipes. Errors name the field that does not fit.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass, replace
from math import isfinite
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from distillation.trainers.objectives.methods import METHODS
from distillation.training.errors import RecipeRefused

Recipe = TypeVar("Recipe")
MAX_WHOLE = 2**53  # larger whole numbers are not exact as floats


def changed(recipe: Recipe, changes: Mapping[str, Any], *, place: str = "") -> Recipe:
    """Return a copy with other values: {"pairs": {"batch": 8}}. Raises RecipeRefused, which names the field."""
    if not is_dataclass(recipe) or isinstance(recipe, type):
        raise TypeError(f"{recipe!r} is not a recipe.")
    known = get_type_hints(type(recipe))
    values = {}
    for name, value in changes.items():
        path = f"{place}{name}"
        if name not in known:
            raise RecipeRefused(
                f"{path} is not a field of the recipe. Its fields: {', '.join(place + n for n in sorted(known))}."
            )
        values[name] = _value(getattr(recipe, name), value, _kinds(known[name]), path)
    try:
        return replace(recipe, **values)
    except ValueError as error:
        raise RecipeRefused(f"{place}{error!s}") from error


def _kinds(hint: Any) -> tuple[Any, ...]:
    """Return the types that a field may hold: the parts of `A | B`, or A alone."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _value(present: Any, value: Any, kinds: tuple[Any, ...], path: str) -> Any:
    """Return `value` converted to the field's type: lists to tuples, whole numbers to floats where needed."""
    if value is None and type(None) in kinds:
        return None
    parts: list[Any] = [kind for kind in kinds if is_dataclass(kind)]
    if parts:
        # Setting a field of a part that the recipe left out adds the part, with its defaults.
        return _part(parts[0]() if present is None else present, value, path)
    lists = [kind for kind in kinds if get_origin(kind) is tuple]
    if isinstance(value, list | tuple) and lists:
        return _list(present, value, get_args(lists[0]), path)
    if type(value) is int and int not in kinds and float in kinds and abs(value) < MAX_WHOLE:
        value = float(value)
    if value is None or type(value) not in kinds:
        raise RecipeRefused(f"{path} takes {_words(kinds)} (it is {present!r} now), not {value!r}.")
    if isinstance(value, float) and not isfinite(value):
        raise RecipeRefused(f"{path} takes a finite number (it is {present!r} now), not {value!r}.")
    return value


def _list(present: Any, values: Sequence[Any], kinds: tuple[Any, ...], path: str) -> Any:
    """Return the values as a tuple, each checked. kinds: arguments of the tuple's type: `X, ...`, or one per value."""
    each = (kinds[0],) * len(values) if kinds[-1] is Ellipsis else kinds
    if len(values) != len(each):
        raise RecipeRefused(
            f"{path} takes {len(each)} values (it is {present!r} now), not {len(values)}."
        )
    return tuple(
        _value(present, value, _kinds(kind), f"each value of {path}")
        for value, kind in zip(values, each, strict=True)
    )


def _words(kinds: tuple[Any, ...]) -> str:
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    return " or ".join(
        names.get(kind, "null" if kind is type(None) else "a list") for kind in kinds
    )


def _part(present: Any, value: Any, path: str) -> Any:
    """Return a nested recipe: the present one with changes, or a new one if the method differs."""
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


def parse(settings: Sequence[str]) -> dict[str, Any]:
    """Parse changes from texts "structure.steps=100". Values are JSON, else text. Raises RecipeRefused."""
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
