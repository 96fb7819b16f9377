"""What the recipes of the methods ask of their fields. Each raises ValueError, which names the field. Knows no tensors.

A field that is None is one that was not given.
"""

import math


def is_method(given: str, expected: str) -> None:
    if given != expected:
        raise ValueError(f"method is {given!r}, but these are the fields of {expected!r}.")


def is_positive(**fields: float | None) -> None:
    for name, value in fields.items():
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive and finite, not {value}.")


def is_not_negative(**fields: float | None) -> None:
    for name, value in fields.items():
        if value is not None and not 0 <= value < math.inf:
            raise ValueError(f"{name} must be finite and not negative, not {value}.")


def is_share(**fields: float | None) -> None:
    for name, value in fields.items():
        if value is not None and not 0 <= value <= 1:
            raise ValueError(f"{name} must be in 0 … 1, not {value}.")


def is_at_least_1(**fields: int | None) -> None:
    for name, value in fields.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}.")
