"""Errors of the local stack. Their messages are for the person at the terminal."""

from typing import Any


class LocalError(Exception):
    """Shown without a traceback; the exit code is 1."""


class AlreadyRunning(LocalError):
    """Another launcher uses the folder."""


class ServerMissing(LocalError):
    """No program of a server fits."""


class PortTaken(LocalError):
    """The requested port is in use."""


class ProcessFailed(LocalError):
    """A process does not stay up. The message has the end of its log."""


class APIError(LocalError):
    """The REST API refused. problem: its answer (RFC 9457); empty if it did not answer."""

    def __init__(self, message: str, problem: dict[str, Any] | None = None):
        super().__init__(message)
        self.problem = problem or {}
        self.code = self.problem.get("code", "")
