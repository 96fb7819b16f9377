"""Every refusal and failure that a client can meet, by code: the source of its page and title. Knows no HTTP library.

Title, status and retryable of a code with an exception class are those of the class. An app above adds its own rows.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from generation import errors
from generation.engine import errors as engine_errors
from generation.engine.errors import EngineError
from generation.errors import GenerationError


@dataclass(frozen=True)
class Problem:
    """status: of the answer, None for what only a failed or canceled job has; retryable: the same request may succeed

    later, of a job: Retort tries by itself again. when: what happened; remedy: what to do about it.
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
    """Make these known. The same again changes nothing."""
    _known.update((problem.code, problem) for problem in problems)


def find(code: str) -> Problem | None:
    return _known.get(code)


def known() -> list[Problem]:
    """All, by status, those of jobs alone at the end."""
    return sorted(_known.values(), key=lambda problem: (problem.status or 1000, problem.code))


def of(
    error: type[GenerationError], when: str, remedy: str, *, is_of_jobs: bool = False
) -> Problem:
    """Of an exception class."""
    title = (error.__doc__ or "").strip().rstrip(".")
    return Problem(error.code, title, error.status, error.retryable, when, remedy, is_of_jobs)


def _of_engine(error: type[EngineError], when: str, remedy: str) -> Problem:
    # The first sentence: some go on with what to do.
    title = (error.__doc__ or "").strip().split(".")[0]
    return Problem(error.code, title, None, error.retryable, when, remedy, is_of_jobs=True)


def _of_job(code: str, title: str, when: str, remedy: str, *, retryable: bool = False) -> Problem:
    return Problem(code, title, None, retryable, when, remedy, is_of_jobs=True)


SEE_LOG = "Tell the operator the id in instance, or the id of the job: the log has the rest."

add(
    [
        # --- the request
        of(
            errors.InvalidRequest,
            "A parameter is missing, unknown or out of range.",
            "Read errors: each entry names the parameter and what is wrong with it.",
        ),
        Problem("unsupported_parameter", "The parameter is not supported", 400, False,
                "The request has a parameter, or a value of one, that nothing could be done with. It is refused, for a "
                "parameter that is silently dropped is a wrong picture.",
                "Leave the parameter out, or take one of the names or values that the message lists."),
        Problem("parse_error", "The body cannot be read", 400, False,
                "The body is not JSON in UTF-8; or something in it cannot be kept: a NUL character, half a surrogate "
                "pair, a number beyond 64 bits, one name twice.",
                "Send a JSON object. The message says where it breaks."),
        Problem("bad_request", "The request cannot be understood", 400, False,
                "A header is malformed, or the Host header names a host that is not ours.",
                "Use the address that the operator gave you. The operator lists its host in ALLOWED_HOSTS."),
        Problem("not_authenticated", "An API key is needed", 401, False,
                "The request has no API key.",
                "Send the header Authorization: Bearer rt_…"),
        Problem("authentication_failed", "The API key is not valid", 401, False,
                "The key is unknown, was revoked or has expired, or its owner may not log in any more.",
                "Check that the whole key was sent. Else have a new one made, in the admin or with "
                "manage.py apikey create."),
        Problem("permission_denied", "The API key may not do this", 403, False,
                "The key lacks the scope that the message names.",
                "Use a key that has the scope."),
        of(
            errors.LinkInvalid,
            "The link to a file is incomplete or was altered.",
            "Read the job or the image again and take the link from there, whole.",
        ),
        of(
            errors.LinkExpired,
            "A link to a file works for a limited time.",
            "Read the job or the image again: it has a fresh link.",
        ),
        Problem("not_found", "Not found", 404, False,
                "There is no such thing, or it belongs to another owner: the two look the same on purpose.",
                "Check the id and whose key you use."),
        Problem("method_not_allowed", "Method not allowed", 405, False,
                "The address exists, but not with this method.",
                "Use a method of the header Allow."),
        Problem("not_acceptable", "No such representation", 406, False,
                "The Accept header allows nothing that this address can give.",
                "Accept application/json."),
        of(
            errors.VariantNotEncoded,
            "The prompt variant is new or was changed, and the encode worker has not come to it.",
            "Send the request again in some seconds. If it stays, see whether an encode worker runs.",
        ),
        of(
            errors.IdempotencyInProgress,
            "Two requests with the same Idempotency-Key arrived at the same time.",
            "Send it again in a second: it is answered with the job of the first.",
        ),
        of(
            errors.IdempotencyKeyReused,
            "The Idempotency-Key came with another body before.",
            "Use a new key for a new request.",
        ),
        of(
            errors.WebhookDisabled,
            "The URL answered 410, nothing could be delivered to it for days, or a person disabled it.",
            "See that it answers 2xx, then enable it: POST /v1/webhooks/{id}/enable. Its id is in GET /v1/webhooks.",
        ),
        of(
            errors.JobPurged,
            "The images were deleted, by their owner or because they were kept long enough.",
            "Submit the same request with the seed of the job: it gives the same picture.",
        ),
        of(
            errors.ImageGone,
            "The row of the image is there and its file is not.",
            "Submit the same request with the seed of the image: it gives the same picture.",
        ),
        Problem("body_too_large", "The body is too large", 413, False,
                "The body is longer than the server takes.",
                "A request for pictures is some hundred bytes: look what else is in it."),
        Problem("unsupported_media_type", "The content type is not supported", 415, False,
                "The body is not declared as JSON.",
                "Send Content-Type: application/json."),
        # --- what it asks for
        of(
            errors.PromptInvalid,
            "The text has no words or more than 12, is too long, or holds a control character.",
            "Shorten the text. The message says what is too much.",
        ),
        of(
            errors.VariantNotFound,
            "No active prompt variant of the catalogue has this slug, or has this text or one that is near enough. "
            "Of a text, nearest lists the three nearest variants where a text encoder could compare them.",
            "Take a variant of nearest or of GET /v1/variants, or have the text added to the catalogue.",
        ),
        of(
            errors.EncodingFailed,
            "The text has more tokens than the text encoder takes, or cannot be encoded for another reason that the "
            "message gives.",
            "Change the text in the catalogue.",
        ),
        of(
            errors.VariantNotCovered,
            "The release was distilled for other prompt variants.",
            "Leave model out, or ask for the teacher. The next redistillation covers the variant.",
        ),
        of(
            errors.ReleaseNotAvailable,
            "model names no release, or one that was rejected; or no release is active.",
            "Leave model out, or choose from GET /v1/releases.",
        ),
        # --- limits
        of(
            errors.RateLimited,
            "The key sends more requests a minute than it may, or as many of its jobs wait as may.",
            "Wait as long as Retry-After says. The headers RateLimit and RateLimit-Policy say what is left.",
        ),
        of(
            errors.QuotaExceeded,
            "The key has used up its images or its device time of the day.",
            "Wait for the next day (UTC), or have the quota raised. The message says when that is.",
        ),
        of(
            errors.QueueFull,
            "More jobs wait than the workers can make in time.",
            "Send the request again when Retry-After has passed.",
        ),
        # --- us
        Problem("internal_error", "Internal error", 500, False,
                "Something happened that nobody foresaw. Of a job: in each of its attempts.",
                SEE_LOG, is_of_jobs=True),
        Problem("database_unavailable", "The database does not answer", 503, True,
                "PostgreSQL is away or is starting.",
                "Send the request again when Retry-After has passed."),
        of(
            errors.EncoderBusy,
            "No variant has the text, and the encode worker, which knows the nearest, did not come to it in time.",
            "Send the request again when Retry-After has passed, or send the slug of a variant.",
        ),
        of(
            errors.EncoderUnavailable,
            "No variant has the text, and no encode worker runs that could compare it, or it cannot load its encoder.",
            "Send the slug or the exact text of a variant meanwhile. The operator should look at the encode worker.",
        ),
        of(
            errors.JobUnfinished,
            "A route that answers with the images kept its client for OPENAI_WAIT_SECONDS, or the web process stops.",
            "The job goes on. Send the same request again, which is how OpenAI's clients get the same job, or read the "
            "job under the id in X-Job-Id.",
        ),
        of(
            errors.StorageFailed,
            "The file of a picture could not be written or read.",
            "Send the request again. If it stays, the operator should look at the space and the rights of the storage.",
            is_of_jobs=True,
        ),
        # --- jobs
        _of_job(errors.WORKER_LOST, "The worker was lost",
                "The worker did not renew its lease: it was killed, stood still or lost the database, and no attempt "
                "was left.",
                "Submit the job again. If it happens again with the same job alone, tell the operator.",
                retryable=True),
        _of_job(errors.CANCELED_BY_CLIENT, "The job was canceled",
                "The client, or somebody in the admin, canceled the job.",
                "Submit it again if you still want the pictures."),
        _of_job(errors.DEADLINE_BEFORE_START, "The job did not start in time",
                "The time of Cancel-After passed while the job waited.",
                "Submit it again with more time, or when fewer jobs wait."),
        _of_job(errors.DEADLINE_WHILE_RUNNING, "The job did not end in time",
                "The time of Cancel-After passed while the job ran.",
                "Submit it again with more time."),
        _of_engine(engine_errors.OutOfMemory,
                   "The device could not hold a single image of this size.",
                   "Ask for a smaller size. The operator should see what else is on the device."),
        _of_engine(engine_errors.EmbeddingInvalid,
                   "The stored embedding of the prompt variant is not what its row says.",
                   "The operator should delete the embedding: it is made again."),
        _of_engine(engine_errors.EmbeddingMismatch,
                   "The embedding belongs to another text encoder than the release.",
                   "Submit the job again. If it stays, the operator should compare the encoder fingerprints."),
        _of_engine(engine_errors.SizeNotSupported,
                   "The release does not make pictures of this size.",
                   "Take a size of the release: GET /v1/releases/{name} lists them."),
        _of_engine(engine_errors.NotFinite,
                   "The network gave values that are not numbers: its number format is too small for it.",
                   "The operator should set DTYPE=float32."),
        _of_engine(engine_errors.ReleaseInvalid,
                   "Files of the release are missing or were altered.",
                   "The operator should register the release again, or activate another."),
        _of_engine(engine_errors.DeviceUnavailable,
                   "The worker's device is not there.",
                   "The operator should look at DEVICE and at the driver."),
    ]
)  # fmt: skip
