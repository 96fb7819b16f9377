"""Readers of environment variables. A malformed value stops the process and names its variable."""

import environ
from django.core.exceptions import ImproperlyConfigured

env = environ.Env()
ON = ("true", "1", "yes", "on", "y", "ok")
OFF = ("false", "0", "no", "off", "n", "")
# Default upper limit. In seconds it is 31 years: more is a mistake, which would fail later and elsewhere.
MAX_VALUE = 10**9


def positive(name: str, default: float, *, whole: bool = False, most: int = MAX_VALUE) -> float:
    """Return a finite number above zero from the environment."""
    raw = env.str(name, default=str(default))
    try:
        value = int(raw) if whole else float(raw)
    except ValueError:
        value = 0
    if not 0 < value <= most:
        kind = "whole number" if whole else "number"
        raise ImproperlyConfigured(f"{name}={raw!r}: give a {kind} above zero and at most {most}.")
    return value


def count(name: str, default: int, *, most: int = MAX_VALUE) -> int:
    return int(positive(name, default, whole=True, most=most))


def whole(name: str, default: int, *, most: int) -> int:
    raw = env.str(name, default=str(default))
    try:
        value = int(raw)
    except ValueError:
        value = -1
    if not 0 <= value <= most:
        raise ImproperlyConfigured(f"{name}={raw!r}: give a whole number from 0 to {most}.")
    return value


def share(name: str, default: float) -> float:
    raw = env.str(name, default=str(default))
    try:
        value = float(raw)
    except ValueError:
        value = -1
    if not 0 <= value <= 1:
        raise ImproperlyConfigured(f"{name}={raw!r}: give a share from 0 to 1.")
    return value


def flag(name: str, default: bool) -> bool:
    """Return whether the variable is on. Raises for unknown words, which django-environ takes for off."""
    raw = env.str(name, default=str(default))
    if raw.lower() not in (*ON, *OFF):
        raise ImproperlyConfigured(f"{name}={raw!r}: give true or false.")
    return raw.lower() in ON


def choice(name: str, default: str, choices: tuple[str, ...]) -> str:
    value = env.str(name, default=default)
    if value not in choices:
        raise ImproperlyConfigured(f"{name}={value!r}: give one of {', '.join(choices)}.")
    return value
