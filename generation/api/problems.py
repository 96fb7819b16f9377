"""Explanations of all error codes that a client can meet: data of the problem pages and titles.

A code with an exception class takes title, status and retryable from the class. Apps built on this one add their own.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from generation import errors
from generation.engine import errors as engine_errors
from generation.engine.errors import EngineError
from generation.errors import GenerationError


@dataclass(frozen=True)
class Problem:
    """Explanation of an error code. when: the cause; remedy: what to do.

    status: HTTP status, None for codes that only failed or canceled jobs have. retryable: the same request may succeed
    later; for a job: it is retried automatically.
    """

    code: str
    title: str
    status: int | None
    retryable: bool
    when: str
    remedy: str
    is_of_jobs: bool = False


_known: dict[str, Problem] = {}


def add(problems: Iterable[Problem]) -> None:
    """Register problems. Registering one twice changes nothing."""
    _known.update((problem.code, problem) for problem in problems)


def find(code: str) -> Problem | None:
    return _known.get(code)


def known() -> list[Problem]:
    """Return all problems by status; those that only jobs have come last."""
    return sorted(_known.values(), key=lambda problem: (problem.status or 1000, problem.code))


def of(
    error: type[GenerationError], when: str, remedy: str, *, is_of_jobs: bool = False
) -> Problem:
    """Return the problem of an exception class."""
    title = (error.__doc__ or "").strip().rstrip(".")
    return Problem(error.code, title, error.status, error.retryable, when, remedy, is_of_jobs)


def _of_engine(error: type[EngineError], when: str, remedy: str) -> Problem:
    # The first sentence: some docstrings go on with a remedy.
    title = (error.__doc__ or "").strip().split(".")[0]
    return Problem(error.code, title, None, error.retryable, when, remedy, is_of_jobs=True)


def _of_job(code: str, title: str, when: str, remedy: str, *, retryable: bool = False) -> Problem:
    return Problem(code, title, None, retryable, when, remedy, is_of_jobs=True)


SEE_LOG = "Give the operator the id in instance, or the id of the job: the log has the details."

add(
    [
        # --- the request
        of(
            errors.InvalidRequest,
            "A parameter is missing, unknown or out of range.",
            "Read errors: each entry names the parameter and the fault.",
        ),
        Problem("unsupported_parameter", "The parameter is not supported", 400, False,
                "The request has a parameter, or a value of one, that is not supported. It is refused, because "
                "ignoring a parameter would give a wrong image.",
                "Remove the parameter, or use one of the names or values in the message."),
        Problem("parse_error", "The body cannot be read", 400, False,
                "The body is not JSON in UTF-8, or contains a value that cannot be stored: a NUL character, a lone "
                "surrogate, a number beyond 64 bits, a duplicate name.",
                "Send a JSON object. The message says where the error is."),
        Problem("bad_request", "The request cannot be understood", 400, False,
                "A header is malformed, or the Host header has an unknown host.",
                "Use the URL that the operator gave you. The operator lists its host in ALLOWED_HOSTS."),
        Problem("not_authenticated", "An API key is needed", 401, False,
                "The request has no API key.",
                "Send the header Authorization: Bearer rt_…"),
        Problem("authentication_failed", "The API key is not valid", 401, False,
                "The key is unknown, revoked or expired, or its owner's account is disabled.",
                "Check that you sent the whole key. Otherwise ask for a new one: it is made in the admin or with "
                "manage.py apikey create."),
        Problem("permission_denied", "The API key may not do this", 403, False,
                "The key lacks the scope named in the message.",
                "Use a key that has the scope."),
        of(
            errors.LinkInvalid,
            "The link to a file is incomplete or was changed.",
            "Read the job or the image again and use the complete link from there.",
        ),
        of(
            errors.LinkExpired,
            "Links to files are valid for a limited time.",
            "Read the job or the image again: it has a new link.",
        ),
        Problem("not_found", "Not found", 404, False,
                "The object does not exist, or belongs to another owner. The answer is the same on purpose.",
                "Check the id, and whose key you use."),
        Problem("method_not_allowed", "Method not allowed", 405, False,
                "The URL exists, but does not support this method.",
                "Use a method listed in the Allow header."),
        Problem("not_acceptable", "No such representation", 406, False,
                "The Accept header excludes all formats of this URL.",
                "Accept application/json."),
        of(
            errors.VariantNotEncoded,
            "The prompt variant is new or was changed, and has not been encoded yet.",
            "Send the request again in a few seconds. If this persists, check that an encode worker is running.",
        ),
        of(
            errors.IdempotencyInProgress,
            "Two requests with the same Idempotency-Key arrived at the same time.",
            "Send the request again in a second: the answer is the job of the first request.",
        ),
        of(
            errors.IdempotencyKeyReused,
            "The Idempotency-Key was sent before with a different body.",
            "Use a new key for a new request.",
        ),
        of(
            errors.WebhookDisabled,
            "The URL answered 410, deliveries to it failed for days, or it was disabled manually.",
            "Check that it answers 2xx, then enable it: POST /v1/webhooks/{id}/enable. GET /v1/webhooks lists the ids.",
        ),
        of(
            errors.JobPurged,
            "The images were deleted by their owner, or their retention time is over.",
            "Submit the same request with the seed of the job: it gives the same image.",
        ),
        of(
            errors.ImageGone,
            "The image is in the database, but its file is missing.",
            "Submit the same request with the seed of the image: it gives the same image.",
        ),
        Problem("body_too_large", "The body is too large", 413, False,
                "The body is longer than the server's limit.",
                "A request for images needs a few hundred bytes: check what else the body contains."),
        Problem("unsupported_media_type", "The content type is not supported", 415, False,
                "The Content-Type is not JSON.",
                "Send Content-Type: application/json."),
        # --- what it asks for
        of(
            errors.PromptInvalid,
            "The text is empty, has more than 12 words, is too long, or contains a control character.",
            "Shorten the text. The message names the limit.",
        ),
        of(
            errors.VariantNotFound,
            "No active prompt variant has this slug, this text or a text similar enough. "
            "For a text, nearest lists the three most similar variants if a text encoder was available.",
            "Use a variant from nearest or from GET /v1/variants, or have the text added to the catalogue.",
        ),
        of(
            errors.EncodingFailed,
            "The text has more tokens than the text encoder accepts, or cannot be encoded for another reason, named in "
            "the message.",
            "Change the text in the catalogue.",
        ),
        of(
            errors.VariantNotCovered,
            "The release was distilled for other prompt variants.",
            "Omit model, or name the teacher. The next distillation will cover the variant.",
        ),
        of(
            errors.ReleaseNotAvailable,
            "model names a release that does not exist or was rejected, or no release is active.",
            "Omit model, or choose a release from GET /v1/releases.",
        ),
        # --- limits
        of(
            errors.RateLimited,
            "The key has sent more requests per minute than its limit, or has as many queued jobs as its limit.",
            "Wait for the time in Retry-After. RateLimit and RateLimit-Policy state the remaining requests.",
        ),
        of(
            errors.QuotaExceeded,
            "The key has reached its daily quota of images or of device time.",
            "Wait for the next day (UTC), or ask for a higher quota. The message states when it is renewed.",
        ),
        of(
            errors.QueueFull,
            "More jobs are queued than MAX_QUEUED_JOBS.",
            "Send the request again after the time in Retry-After.",
        ),
        # --- us
        Problem("internal_error", "Internal error", 500, False,
                "An unexpected error occurred; for a job, in each of its attempts.",
                SEE_LOG, is_of_jobs=True),
        Problem("database_unavailable", "The database does not answer", 503, True,
                "PostgreSQL cannot be reached.",
                "Send the request again after the time in Retry-After."),
        of(
            errors.EncoderBusy,
            "No variant has this text, and the encode worker did not compare it in time.",
            "Send the request again after the time in Retry-After, or send the slug of a variant.",
        ),
        of(
            errors.EncoderUnavailable,
            "No variant has this text, and no encode worker is running, or it cannot load its text encoder.",
            "Send the slug or the exact text of a variant. The operator should check the encode worker.",
        ),
        of(
            errors.JobUnfinished,
            "The job took longer than OPENAI_WAIT_SECONDS, or the web process is shutting down.",
            "The job continues. Send the same request again (OpenAI's clients do, and get the same job), or read the "
            "job whose id is in X-Job-Id.",
        ),
        of(
            errors.StorageFailed,
            "The file of an image could not be written or read.",
            "Send the request again. If this persists, the operator should check the storage.",
            is_of_jobs=True,
        ),
        # --- jobs
        _of_job(errors.WORKER_LOST, "The worker was lost",
                "The worker did not renew its lease (it was killed, hung or lost the database), and no attempt was "
                "left.",
                "Submit the job again. If it fails again with the same job only, tell the operator.",
                retryable=True),
        _of_job(errors.CANCELED_BY_CLIENT, "The job was canceled",
                "The job was canceled by the client or in the admin.",
                "Submit it again if you still need the images."),
        _of_job(errors.DEADLINE_BEFORE_START, "The job did not start in time",
                "The time in Cancel-After passed while the job was queued.",
                "Submit it again with a longer time, or when fewer jobs are queued."),
        _of_job(errors.DEADLINE_WHILE_RUNNING, "The job did not end in time",
                "The time in Cancel-After passed while the job was running.",
                "Submit it again with a longer time."),
        _of_engine(engine_errors.OutOfMemory,
                   "The device has too little memory for one image of this size.",
                   "Request a smaller size. The operator should check what else uses the device."),
        _of_engine(engine_errors.EmbeddingInvalid,
                   "The stored embedding of the prompt variant is damaged.",
                   "The operator should delete the embedding: it will be encoded again."),
        _of_engine(engine_errors.EmbeddingMismatch,
                   "The embedding was made with a different text encoder from the release's.",
                   "Submit the job again. If this persists, the operator should compare the encoder fingerprints."),
        _of_engine(engine_errors.SizeNotSupported,
                   "The release does not support this image size.",
                   "Use a size that GET /v1/releases/{name} lists."),
        _of_engine(engine_errors.NotFinite,
                   "The network returned values that are not finite: the range of its dtype is too small.",
                   "The operator should set DTYPE=float32."),
        _of_engine(engine_errors.ReleaseInvalid,
                   "Files of the release are missing or were changed.",
                   "The operator should register the release again, or activate another one."),
        _of_engine(engine_errors.DeviceUnavailable,
                   "The device of the worker is not available.",
                   "The operator should check DEVICE and the driver."),
    ]
)  # fmt: skip
