"""Exceptions of the app distillation."""

from generation.errors import GenerationError


class DistillationRefused(GenerationError):
    """The distillation cannot start or continue."""

    code = "distillation_refused"
    status = 409


class RunOpen(DistillationRefused):
    """A run of this teacher is already open."""

    code = "run_open"


class RunFinished(DistillationRefused):
    """The run has already finished."""

    code = "run_finished"


class DetectorRefused(DistillationRefused):
    """The detector version cannot be registered or activated."""

    code = "detector_refused"
