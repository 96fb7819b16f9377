"""Exceptions of the app. The class docstring is the title; `status`, `code` and `retryable` are class attributes."""

from collections.abc import Mapping
from typing import Any


class GenerationError(Exception):
    """The request could not be carried out."""

    code = "generation_error"
    status = 500
    retryable = False

    def __init__(
        self,
        detail: str = "",
        *,
        parameter: str | None = None,
        retry_after: int | None = None,
        members: Mapping[str, Any] | None = None,
    ) -> None:
        """retry_after: whole seconds, if retryable; None = a default. members: more members of the problem document."""
        self.title = (type(self).__doc__ or "").strip().rstrip(".")
        self.detail = detail or f"{self.title}."
        self.parameter = parameter
        self.retry_after = retry_after
        self.members = dict(members or {})
        super().__init__(self.detail)


class InvalidRequest(GenerationError):
    """The request is not valid."""

    code = "invalid_request"
    status = 400


class PromptInvalid(GenerationError):
    """The text of the prompt variant is not valid."""

    code = "prompt_invalid"
    status = 422


class IdempotencyKeyReused(GenerationError):
    """The idempotency key was used for a different request."""

    code = "idempotency_key_reused"
    status = 422


class IdempotencyInProgress(GenerationError):
    """The first request with this idempotency key is still being accepted."""

    code = "idempotency_in_progress"
    status = 409
    retryable = True


class RateLimited(GenerationError):
    """The API key has exceeded its rate limit."""

    code = "rate_limited"
    status = 429
    retryable = True


class QuotaExceeded(GenerationError):
    """The API key has reached its quota."""

    code = "quota_exceeded"
    status = 429
    retryable = True


class KeyRefused(GenerationError):
    """The API key cannot be changed in this way."""

    code = "key_refused"
    status = 409


class QueueFull(GenerationError):
    """The queue is full."""

    code = "queue_full"
    status = 503
    retryable = True


class JobUnfinished(GenerationError):
    """The job did not finish within the time limit of the request."""

    code = "job_unfinished"
    status = 503
    retryable = True


class JobPurged(GenerationError):
    """The images of the job were deleted."""

    code = "job_purged"
    status = 410


class VariantNotFound(GenerationError):
    """The catalogue has no such active prompt variant."""

    code = "variant_not_found"
    status = 422


class EncoderBusy(GenerationError):
    """The encode worker is busy."""

    code = "encoder_busy"
    status = 503
    retryable = True


class EncoderUnavailable(GenerationError):
    """The text cannot be compared with the catalogue at the moment."""

    code = "encoder_unavailable"
    status = 503
    retryable = True


class VariantNotEncoded(GenerationError):
    """The prompt variant has no usable embedding yet."""

    code = "variant_not_encoded"
    status = 409
    retryable = True


class EncodingFailed(GenerationError):
    """The text of the prompt variant could not be encoded."""

    code = "encoding_failed"
    status = 422


class VariantNotCovered(GenerationError):
    """The release does not cover this prompt variant."""

    code = "variant_not_covered"
    status = 422


class ReleaseNotAvailable(GenerationError):
    """The release is not available."""

    code = "release_not_available"
    status = 422


class ReleaseRefused(GenerationError):
    """The release was refused."""

    code = "release_refused"
    status = 409


class JobFinished(GenerationError):
    """The job has already finished."""

    code = "job_finished"
    status = 409


class WebhookDisabled(GenerationError):
    """The webhook is disabled."""

    code = "webhook_disabled"
    status = 409


class StorageFailed(GenerationError):
    """The image could not be stored."""

    code = "storage_failed"
    status = 503
    retryable = True


class LinkInvalid(GenerationError):
    """The link to the image is not valid."""

    code = "link_invalid"
    status = 403


class LinkExpired(GenerationError):
    """The link to the image has expired."""

    code = "link_expired"
    status = 403


class ImageGone(GenerationError):
    """The file of the image is no longer stored."""

    code = "image_gone"
    status = 410


# Codes of a failed or canceled job that no exception class carries.
WORKER_LOST = "worker_lost"
INTERNAL_ERROR = "internal_error"
CANCELED_BY_CLIENT = "canceled_by_client"
DEADLINE_BEFORE_START = "deadline_before_start"
DEADLINE_WHILE_RUNNING = "deadline_while_running"
