"""What can go wrong in the app. The class docstring is the title; `status`, `code`, `retryable` are facts of it."""

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
        """retry_after: whole seconds, for a retryable one; None = a default. members: what else a client is told."""
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
    """The idempotency key belongs to another request."""

    code = "idempotency_key_reused"
    status = 422


class IdempotencyInProgress(GenerationError):
    """The first request with this idempotency key is still being accepted."""

    code = "idempotency_in_progress"
    status = 409
    retryable = True


class RateLimited(GenerationError):
    """The API key sends more requests than it may."""

    code = "rate_limited"
    status = 429
    retryable = True


class QuotaExceeded(GenerationError):
    """The API key has used up what it may."""

    code = "quota_exceeded"
    status = 429
    retryable = True


class KeyRefused(GenerationError):
    """The API key cannot be changed like that."""

    code = "key_refused"
    status = 409


class QueueFull(GenerationError):
    """More jobs wait than can be made in time."""

    code = "queue_full"
    status = 503
    retryable = True


class JobUnfinished(GenerationError):
    """The job has not ended in the time for which a client is kept."""

    code = "job_unfinished"
    status = 503
    retryable = True


class JobPurged(GenerationError):
    """The images of the job were removed."""

    code = "job_purged"
    status = 410


class VariantNotFound(GenerationError):
    """There is no such active prompt variant in the catalogue."""

    code = "variant_not_found"
    status = 422


class EncoderBusy(GenerationError):
    """The encode worker has no time for another text."""

    code = "encoder_busy"
    status = 503
    retryable = True


class EncoderUnavailable(GenerationError):
    """The text cannot be compared with the catalogue now."""

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
    """The release was not made for this prompt variant."""

    code = "variant_not_covered"
    status = 422


class ReleaseNotAvailable(GenerationError):
    """No such release is being served."""

    code = "release_not_available"
    status = 422


class ReleaseRefused(GenerationError):
    """The release was refused."""

    code = "release_refused"
    status = 409


class JobFinished(GenerationError):
    """The job has already ended."""

    code = "job_finished"
    status = 409


class WebhookDisabled(GenerationError):
    """Nothing is sent to this webhook any more."""

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


# Codes of a failed or canceled job that no exception class of ours carries.
WORKER_LOST = "worker_lost"
INTERNAL_ERROR = "internal_error"
CANCELED_BY_CLIENT = "canceled_by_client"
DEADLINE_BEFORE_START = "deadline_before_start"
DEADLINE_WHILE_RUNNING = "deadline_while_running"
