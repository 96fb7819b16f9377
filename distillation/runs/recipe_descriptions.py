"""Description of a recipe: its name and its changed fields, as JSON. Loads no torch."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distillation.errors import DistillationRefused
from distillation.pipeline.summaries import FIELDS, SUMMARIES

# Fields that the plan of a run reads; the worker checks all of them.
PLANNED: Mapping[str, tuple[Any, str]] = {
    "image_size": (int, "a whole number"),
    "timesteps": (list, "a list"),
    "most_variants": (int | None, "a whole number or null"),
}


def described(given: str) -> dict[str, Any]:
    """Return the description of the recipe with this name, or in this JSON file. Raises DistillationRefused."""
    path = Path(given)
    if path.suffix != ".json":
        return check_description({"recipe": given}, given)
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DistillationRefused(f"{path} cannot be read as JSON: {error}") from error
    return check_description(value, given)


def check_description(value: Any, name: str) -> dict[str, Any]:
    """Return the content of a JSON file with the description of a recipe. Raises DistillationRefused."""
    if not isinstance(value, dict) or not isinstance(value.get("recipe"), str):
        raise DistillationRefused(f'{name} must contain {{"recipe": NAME, FIELD: VALUE, …}}.')
    if value["recipe"] not in SUMMARIES:
        raise DistillationRefused(
            f"There is no recipe named {value['recipe']!r}. Give one of {', '.join(SUMMARIES)}."
        )
    if unknown := sorted(value.keys() - {"recipe", *FIELDS}):
        raise DistillationRefused(
            f"A recipe has no field {', '.join(unknown)}. It has {', '.join(FIELDS)}."
        )
    for field, (kind, words) in PLANNED.items():
        if field in value and not isinstance(value[field], kind):
            raise DistillationRefused(f"{field} is {words}, not {value[field]!r}.")
    return value
