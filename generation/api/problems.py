"""Explanations of all error codes in responses and jobs, for the problem pages and titles.

A code with an exception class is explained in the class. Other apps add their own.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from types import ModuleType

from generation import errors
from generation.engine import errors as engine_errors


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


def add_errors(module: ModuleType) -> None:
    """Register the exception classes of a module that have `when` and `remedy`."""
    classes = [value for value in vars(module).values() if "when" in getattr(value, "__dict__", ())]
    add(
        Problem(
            error.code,
            # Only the first sentence: some docstrings continue with a remedy.
            (error.__doc__ or "").split(".")[0],
            getattr(error, "status", None),
            error.retryable,
            error.when,
            error.remedy,
            is_of_jobs=getattr(error, "is_of_jobs", True),
        )
        for error in classes
    )


def _of_job(code: str, title: str, when: str, remedy: str, *, retryable: bool = False) -> Problem:
    return Problem(code, title, None, retryable, when, remedy, is_of_jobs=True)


SEE_LOG = "Give the operator the id in instance, or the id of the job: the log has the details."

add_errors(errors)
add_errors(engine_errors)
add(
    [
        Problem("unsupported_parameter", "The parameter is not supported", 400, False,
                "The request has a parameter, or a value of one, that is not supported. It is refused, because "
                "ignoring a parameter would give a wrong image.",
                "Remove the parameter, or use one of the names or values in the message."),
        Problem("parse_error", "The body cannot be read", 400, False,
                "The body is not JSON in UTF-8, or contains a value that cannot be stored: a NUL character, a lone "
                "surrogate, a number beyond 64 bits, a duplicate name; or more than 1000 values "
                "(an import: 100,000) or 32 levels.",
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
                "The key lacks the scope named in the message, or its owner the permissions behind it.",
                "Use a key that has the scope, or ask staff for the permissions."),
        Problem("not_found", "Not found", 404, False,
                "The object does not exist, or belongs to another owner. The answer is the same on purpose.",
                "Check the id, and whose key you use."),
        Problem("method_not_allowed", "Method not allowed", 405, False,
                "The URL exists, but does not support this method.",
                "Use a method listed in the Allow header."),
        Problem("not_acceptable", "No such representation", 406, False,
                "The Accept header excludes all formats of this URL.",
                "Accept application/json."),
        Problem("body_timeout", "The body did not arrive in time", 408, True,
                "The body did not arrive within 30 seconds.",
                "Send the request again."),
        Problem("body_too_large", "The body is too large", 413, False,
                "The body is longer than the server's limit.",
                "A request for images needs a few hundred bytes: check what else the body contains. Divide a large "
                "import."),
        Problem("unsupported_media_type", "The content type is not supported", 415, False,
                "The Content-Type is not JSON.",
                "Send Content-Type: application/json."),
        Problem("internal_error", "Internal error", 500, False,
                "An unexpected error occurred; for a job, in each of its attempts.",
                SEE_LOG, is_of_jobs=True),
        Problem("database_unavailable", "The database does not answer", 503, True,
                "PostgreSQL cannot be reached, is read-only (while it fails over), is full, or is being restored.",
                "Send the request again after the time in Retry-After."),
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
    ]
)  # fmt: skip
