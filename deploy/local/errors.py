"""Errors of the local stack. Their messages are for the person at the terminal."""


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
    """The REST API refused. `code` is that of its problem details."""

    def __init__(self, message: str, *, status: int = 0, code: str = "", retry_after: float = 0):
        super().__init__(message)
        self.status = status
        self.code = code
        self.retry_after = retry_after
