"""Failure of an attempt: classification of its error, and the pause before the next attempt.

An error of the job counts towards its attempts. An error of the infrastructure (storage, database, device, a release
that a host cannot read) does not.
"""

import random
from dataclasses import dataclass
from datetime import timedelta

from django.conf import settings
from django.db import InternalError
from django.db.models.expressions import CombinedExpression
from django.db.models.functions import Now

from generation.engine.errors import DeviceFailed, EngineError
from generation.errors import DATABASE_UNAVAILABLE, INTERNAL_ERROR, GenerationError
from generation.infra import database
from generation.models import Attempt, Job

MAX_PAUSE_SECONDS = 300.0


@dataclass(frozen=True)
class Failure:
    """Why an attempt ended without images. code, detail: shown to the client if the job fails."""

    code: str
    detail: str
    retryable: bool = True
    is_infrastructure: bool = False

    @classmethod
    def of(cls, error: Exception) -> "Failure":
        """Return the failure for an exception in the worker. Unknown exceptions count as the job's fault."""
        detail = str(error)[:2000].strip() or repr(error)
        if isinstance(error, EngineError | GenerationError):
            return cls(error.code, detail, error.retryable, error.is_infrastructure)
        if isinstance(error, InternalError) or database.is_away(error):
            return cls(DATABASE_UNAVAILABLE, detail, is_infrastructure=True)
        return cls(INTERNAL_ERROR, detail)


def may_be_caused_by(job: Job, failure: Failure) -> bool:
    """Return whether a device failed with this job before: a job that breaks devices must fail eventually."""
    if failure.code != DeviceFailed.code:
        return False
    before = Attempt.ErrorClass.INFRASTRUCTURE
    return job.attempts.filter(error_class=before, error_code=failure.code).exists()


def error_class(outcome: Attempt.Outcome, failure: Failure) -> str:
    """Return the error class to record with an attempt."""
    if failure.is_infrastructure:
        return Attempt.ErrorClass.INFRASTRUCTURE
    return "" if outcome == Attempt.Outcome.RELEASED else Attempt.ErrorClass.JOB


def not_before(
    job: Job, outcome: Attempt.Outcome, failure: Failure
) -> CombinedExpression | Now | None:
    """Return when the next attempt of a queued job may begin; None: at once, on any worker."""
    if not failure.code:
        return None  # the worker stopped regularly
    if outcome == Attempt.Outcome.LOST:
        return Now()  # the wait for the end of the lease was a pause
    return Now() + timedelta(seconds=pause_seconds(job.attempt))


def pause_seconds(attempt: int) -> float:
    """Return the pause after this attempt (from 1): it grows fourfold each time, and half of it is random."""
    most = min(MAX_PAUSE_SECONDS, settings.RETRY_PAUSE_SECONDS * 4 ** min(attempt - 1, 10))
    return random.uniform(most / 2, most)
