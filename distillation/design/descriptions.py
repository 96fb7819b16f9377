"""Descriptions of recipes: {"recipe": NAME, FIELD: VALUE, …}, put together. Loads no torch."""

from collections.abc import Mapping
from typing import Any


def merged(description: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the description of a recipe with further changes: fields of the same part are put together."""
    found = dict(description)
    for name, value in changes.items():
        present = found.get(name)
        both = isinstance(present, Mapping) and isinstance(value, Mapping)
        found[name] = merged(present, value) if both else value  # type: ignore[arg-type]
    return found
