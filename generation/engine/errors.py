"""What can go wrong in the engine. The class docstring is the message; `code`, `retryable` are facts of the class."""


class EngineError(Exception):
    """The engine could not do what was asked."""

    code = "engine_error"
    retryable = False

    def __init__(self, detail: str = "") -> None:
        message = (type(self).__doc__ or "").strip()
        super().__init__(f"{message} {detail}".strip())
        self.detail = detail


class ReleaseInvalid(EngineError):
    """The release cannot be used."""

    code = "release_invalid"


class EmbeddingInvalid(EngineError):
    """The stored embedding is damaged or has another shape than it states."""

    code = "embedding_invalid"


class EmbeddingMismatch(EngineError):
    """The embedding was made by another text encoder than the release's. Encode the prompt variant again."""

    code = "embedding_mismatch"


class TextTooLong(EngineError):
    """The text does not fit the text encoder without being cut."""

    code = "text_too_long"


class SizeNotSupported(EngineError):
    """The release does not make images of this size."""

    code = "size_not_supported"


class OutOfMemory(EngineError):
    """The device ran out of memory even for a single image."""

    code = "out_of_memory"
    retryable = True


class NotFinite(EngineError):
    """The network gave values that are not numbers. Load the release with dtype float32."""

    code = "not_finite"


class DeviceUnavailable(EngineError):
    """The device that was asked for is not there."""

    code = "device_unavailable"
