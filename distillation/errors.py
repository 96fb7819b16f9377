"""What can go wrong in the app distillation, with what to do about it."""

from generation.errors import GenerationError


class DistillationRefused(GenerationError):
    """A distillation cannot begin or go on."""

    code = "distillation_refused"
    status = 409


class RunOpen(DistillationRefused):
    """A run of this teacher is under way."""

    code = "run_open"


class RunFinished(DistillationRefused):
    """The run has already ended."""

    code = "run_finished"


class DetectorRefused(DistillationRefused):
    """A version of the detector cannot be registered or activated."""

    code = "detector_refused"
