"""Exceptions of the engine. The class docstring is the message; `code` and `retryable` are class attributes."""


class EngineError(Exception):
    """The engine could not carry out the request."""

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
    """The stored embedding is damaged, or its shape differs from the declared one."""

    code = "embedding_invalid"


class EmbeddingMismatch(EngineError):
    """The embedding was made with a different text encoder from the release's. Encode the prompt variant again."""

    code = "embedding_mismatch"


class TextTooLong(EngineError):
    """The text has more tokens than the text encoder accepts."""

    code = "text_too_long"


class SizeNotSupported(EngineError):
    """The release does not support this image size."""

    code = "size_not_supported"


class OutOfMemory(EngineError):
    """The device ran out of memory even for a single image."""

    code = "out_of_memory"
    retryable = True


class NotFinite(EngineError):
    """The network returned values that are not finite. Load the release with dtype float32."""

    code = "not_finite"


class DeviceUnavailable(EngineError):
    """The requested device is not available."""

    code = "device_unavailable"
