"""Exceptions of the app. The class docstring is the title; other properties are class attributes.

An error that API clients can receive has `when` (its cause) and `remedy`, from which `generation.api.problems` makes a
page.
"""

from collections.abc import Mapping
from typing import Any


class GenerationError(Exception):
    """The request could not be carried out."""

    code = "generation_error"
    status = 500
    retryable = False
    is_infrastructure = False  # a fault of the host or a server, which does not fail the job
    is_of_jobs = False  # failed jobs can have this code too

    def __init__(
        self,
        detail: str = "",
        *,
        parameter: str | None = None,
        retry_after: int | None = None,
        members: Mapping[str, Any] | None = None,
    ) -> None:
        """retry_after: seconds, if retryable; None = a default. members: further members of the problem document."""
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
    when = "A parameter is missing, unknown or out of range."
    remedy = "Read errors: each entry names the parameter and the fault."


class PromptInvalid(GenerationError):
    """The text of the prompt variant is not valid."""

    code = "prompt_invalid"
    status = 422
    when = (
        "The text is empty, has more than 12 words, is too long, or contains a control character."
    )
    remedy = "Shorten the text. The message names the limit."


class IdempotencyKeyReused(GenerationError):
    """The idempotency key was used for a different request."""

    code = "idempotency_key_reused"
    status = 422
    when = "The Idempotency-Key was sent before with a different body."
    remedy = "Use a new key for a new request."


class IdempotencyInProgress(GenerationError):
    """The first request with this idempotency key is still being accepted."""

    code = "idempotency_in_progress"
    status = 409
    retryable = True
    when = "Two requests with the same Idempotency-Key arrived at the same time."
    remedy = "Send the request again in a second: the answer is the job of the first request."


class RateLimited(GenerationError):
    """The account or the API key has exceeded its rate limit."""

    code = "rate_limited"
    status = 429
    retryable = True
    when = "The account or its key has reached its limit of requests per minute or of queued jobs."
    remedy = "Wait for the time in Retry-After. RateLimit and RateLimit-Policy state the remaining requests."


class QuotaExceeded(GenerationError):
    """The account or the API key has reached its quota."""

    code = "quota_exceeded"
    status = 429
    retryable = True
    when = "The account or its key has reached its daily quota of images or of device time."
    remedy = "Wait for the next day (UTC), or request a higher quota. The message states when it is renewed."


class KeyRefused(GenerationError):
    """The API key cannot be changed in this way."""

    code = "key_refused"
    status = 409


class QueueFull(GenerationError):
    """The queue is full."""

    code = "queue_full"
    status = 503
    retryable = True
    when = "More jobs are queued than MAX_QUEUED_JOBS."
    remedy = "Send the request again after the time in Retry-After."


class JobUnfinished(GenerationError):
    """The job did not finish within the time limit of the request."""

    code = "job_unfinished"
    status = 503
    retryable = True
    when = "The job took longer than OPENAI_WAIT_SECONDS, or the web process is shutting down."
    remedy = (
        "The job continues. Send the same request again (OpenAI's clients do, and get the same job), or read the job "
        "whose id is in X-Job-Id."
    )


class JobPurged(GenerationError):
    """The images of the job were deleted."""

    code = "job_purged"
    status = 410
    when = "The images were deleted by their owner, or their retention time is over."
    remedy = "Submit the same request with the seed of the job: it gives the same image."


class VariantNotFound(GenerationError):
    """The catalogue has no such active prompt variant."""

    code = "variant_not_found"
    status = 422
    when = (
        "No active prompt variant has this slug, this text or a text similar enough. For a text, nearest lists the "
        "three most similar variants if a text encoder was available."
    )
    remedy = "Use a variant from nearest or from GET /v1/variants, or have the text added to the catalogue."


class EncoderBusy(GenerationError):
    """The encode worker is busy."""

    code = "encoder_busy"
    status = 503
    retryable = True
    when = "No variant has this text, and the encode worker did not compare it in time."
    remedy = "Send the request again after the time in Retry-After, or send the slug of a variant."


class EncoderUnavailable(GenerationError):
    """The text cannot be compared with the catalogue at the moment."""

    code = "encoder_unavailable"
    status = 503
    retryable = True
    when = "No variant has this text, and no encode worker is running, or it cannot load its text encoder."
    remedy = (
        "Send the slug or the exact text of a variant. The operator should check the encode worker."
    )


class VariantNotEncoded(GenerationError):
    """The prompt variant has no usable embedding yet."""

    code = "variant_not_encoded"
    status = 409
    retryable = True
    when = "The prompt variant is new or was changed, and has not been encoded yet."
    remedy = "Send the request again in a few seconds. If this persists, check that an encode worker is running."


class EncodingFailed(GenerationError):
    """The text of the prompt variant could not be encoded."""

    code = "encoding_failed"
    status = 422
    when = (
        "The text has more tokens than the text encoder accepts, or cannot be encoded for another reason, named in "
        "the message."
    )
    remedy = "Change the text in the catalogue."


class VariantNotCovered(GenerationError):
    """The release does not cover this prompt variant."""

    code = "variant_not_covered"
    status = 422
    when = "The release was distilled for other prompt variants."
    remedy = "Omit model, or name the teacher. The next distillation will cover the variant."


class ReleaseNotAvailable(GenerationError):
    """The release is not available."""

    code = "release_not_available"
    status = 422
    when = "model names a release that does not exist or was rejected, or no release is active."
    remedy = "Omit model, or choose a release from GET /v1/releases."


class ReleaseRefused(GenerationError):
    """The release was refused."""

    code = "release_refused"
    status = 409


class WebhookDisabled(GenerationError):
    """The webhook is disabled."""

    code = "webhook_disabled"
    status = 409
    when = "The URL answered 410, deliveries to it failed for days, or it was disabled manually."
    remedy = "Check that it answers 2xx, then enable it: POST /v1/webhooks/{id}/enable. GET /v1/webhooks lists the ids."


class StorageFailed(GenerationError):
    """The image could not be stored."""

    code = "storage_failed"
    status = 503
    retryable = True
    is_infrastructure = True
    when = "The file of an image could not be written or read."
    remedy = "Send the request again. If this persists, the operator should check the storage."
    is_of_jobs = True


class FileMissing(StorageFailed):
    """The file is missing, although the storage is available."""


class LinkInvalid(GenerationError):
    """The link to the image is not valid."""

    code = "link_invalid"
    status = 403
    when = "The link to a file is incomplete or was changed."
    remedy = "Read the job or the image again and use the complete link from there."


class LinkExpired(GenerationError):
    """The link to the image has expired."""

    code = "link_expired"
    status = 403
    when = "Links to files are valid for a limited time."
    remedy = "Read the job or the image again: it has a new link."


class ImageGone(GenerationError):
    """The file of the image is no longer stored."""

    code = "image_gone"
    status = 410
    when = "The image is in the database, but its file is missing."
    remedy = "Submit the same request with the seed of the image: it gives the same image."


# Codes of failed or canceled jobs without an exception class.
WORKER_LOST = "worker_lost"
INTERNAL_ERROR = "internal_error"
DATABASE_UNAVAILABLE = "database_unavailable"
CANCELED_BY_CLIENT = "canceled_by_client"
DEADLINE_BEFORE_START = "deadline_before_start"
DEADLINE_WHILE_RUNNING = "deadline_while_running"
