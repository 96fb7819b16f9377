"""What refusals of redistillation mean to a client: rows of `generation.api.problems`."""

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
        "A teacher has one run at a time, and the last one has not ended.",
        "Wait for it, or cancel it: POST /v1/runs/{name}/cancel.",
    ),
    of(
        errors.RunFinished,
        "A run that has ended does not go on.",
        "Begin a new one: POST /v1/runs.",
    ),
]
