"""Checks of a recipe's fields by name. Each raises ValueError, whose message begins with the field.

A field that is None passes.
"""

import math
from collections.abc import Callable, Collection
from typing import Any


def at_least_1(recipe: object, *names: str) -> None:
    _check(recipe, names, lambda value: 1 <= value < math.inf, "must be at least 1")


def positive(recipe: object, *names: str) -> None:
    _check(recipe, names, lambda value: 0 < value < math.inf, "must be above 0 and finite")


def not_negative(recipe: object, *names: str) -> None:
    _check(recipe, names, lambda value: 0 <= value < math.inf, "must not be negative, and finite")


def share(recipe: object, *names: str) -> None:
    _check(recipe, names, lambda value: 0 <= value <= 1, "must lie from 0 to 1")


def below_1(recipe: object, *names: str) -> None:
    _check(recipe, names, lambda value: 0 <= value < 1, "must lie from 0 to below 1")


def at_most(recipe: object, name: str, limit: float, of: str) -> None:
    """of: the name of the limit, for the message."""
    _check(recipe, (name,), lambda value: 0 <= value <= limit, f"must lie from 0 to {of} ({limit})")


def one_of(recipe: object, name: str, choices: Collection[str]) -> None:
    _check(recipe, (name,), lambda value: value in choices, f"must be one of {', '.join(choices)}")


def _check(
    recipe: object, names: Collection[str], is_right: Callable[[Any], bool], rule: str
) -> None:
    for name in names:
        value = getattr(recipe, name)
        if value is not None and not is_right(value):
            raise ValueError(f"{name} {rule}, not {value!r}.")
