"""What can go wrong on the way up. The message is for the person at the terminal and says what to do."""


class LocalError(Exception):
    """Shown without a traceback; the exit code is 1."""


class AlreadyRunning(LocalError):
    """Another launcher holds the folder."""


class ServerMissing(LocalError):
    """No binary of a server that fits."""


class PortTaken(LocalError):
    """The port that was asked for belongs to another process."""


class ProcessFailed(LocalError):
    """A process does not stay up. Carries the tail of its log."""


class APIError(LocalError):
    """The REST API refused. `code` is the machine's word for it."""

    def __init__(self, message: str, *, status: int = 0, code: str = "", retry_after: float = 0):
        super().__init__(message)
        self.status = status
        self.code = code
        self.retry_after = retry_after
