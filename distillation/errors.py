"""Exceptions of the app distillation."""

from generation.errors import GenerationError


class DistillationRefused(GenerationError):
    """The distillation cannot start or continue."""

    code = "distillation_refused"
    status = 409
    when = (
        "There is nothing to distil (no teacher or no prompt variant is active), or the recipe does not fit the "
        "teacher or the student that it would continue."
    )
    remedy = "Read detail: it states what is missing or does not fit, and what to do."


class GateForbidden(DistillationRefused):
    """The recipe changes what a release must reach."""

    code = "gate_forbidden"
    status = 403
    when = (
        "The recipe of the run or the design changes evaluation or gate, and the owner of the key may not change "
        "releases."
    )
    remedy = "Leave these fields out, or ask somebody who may change releases."


class RunOpen(DistillationRefused):
    """A run of this teacher is already open."""

    code = "run_open"
    when = "A teacher can have one open run, and its last run has not finished."
    remedy = "Wait until it finishes, or cancel it: POST /v1/runs/{name}/cancel."


class RunFinished(DistillationRefused):
    """The run has already finished."""

    code = "run_finished"
    when = "A finished run cannot be changed."
    remedy = "Start a new run: POST /v1/runs."


class DesignFinished(DistillationRefused):
    """The design has already finished."""

    code = "design_finished"
    when = "A finished design cannot be changed."
    remedy = "Start a new design: POST /v1/designs."


class DetectorRefused(DistillationRefused):
    """The detector version cannot be registered or activated."""

    code = "detector_refused"
