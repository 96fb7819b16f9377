"""Errors of the local stack. Their messages are shown at the terminal."""

from typing import Any


class LocalError(Exception):
    """Base class. The message is shown without a traceback; the exit code is 1."""


class AlreadyRunning(LocalError):
    """Another launcher uses the folder."""


class ServerMissing(LocalError):
    """No suitable server program is installed."""


class PortTaken(LocalError):
    """The requested port is in use."""


class ProcessFailed(LocalError):
    """A process does not stay up. The message contains the end of its log."""


class APIError(LocalError):
    """A request to the REST API failed. problem: the response (RFC 9457); empty without a response."""

    def __init__(self, message: str, problem: dict[str, Any] | None = None):
        super().__init__(message)
        self.problem = problem or {}
        self.code = self.problem.get("code", "")
