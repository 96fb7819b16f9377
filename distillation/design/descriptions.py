"""Merging of recipe descriptions, {"recipe": NAME, FIELD: VALUE, …}. Loads no torch."""

from collections.abc import Mapping
from typing import Any


def merged(description: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the description with the changes merged in, recursively within each part."""
    found = dict(description)
    for name, value in changes.items():
        present = found.get(name)
        both = isinstance(present, Mapping) and isinstance(value, Mapping)
        found[name] = merged(present, value) if both else value  # type: ignore[arg-type]
    return found
