"""Explanations of distillation's error codes, for `generation.api.problems`."""

from distillation import errors
from generation.api.problems import of

PROBLEMS = [
    of(
        errors.DistillationRefused,
        "There is nothing to distil: no teacher is active, or no variant of the catalogue is encoded for it.",
        "The message says what is missing.",
    ),
    of(
        errors.RunOpen,
        "A teacher can have one open run, and its last run has not finished.",
        "Wait until it finishes, or cancel it: POST /v1/runs/{name}/cancel.",
    ),
    of(
        errors.RunFinished,
        "A finished run cannot be changed.",
        "Start a new run: POST /v1/runs.",
    ),
]
