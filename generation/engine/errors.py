"""Exceptions of the engine. The class docstring is the message; other properties are class attributes.

An error that can fail jobs has `when` (its cause) and `remedy`, as in `generation.errors`.
"""


class EngineError(Exception):
    """The engine could not carry out the request."""

    code = "engine_error"
    retryable = False
    is_infrastructure = False  # a fault of the host or its device, which does not fail the job

    def __init__(self, detail: str = "") -> None:
        message = (type(self).__doc__ or "").strip()
        super().__init__(f"{message} {detail}".strip())
        self.detail = detail


class ReleaseInvalid(EngineError):
    """The release cannot be used."""

    code = "release_invalid"
    retryable = True
    is_infrastructure = True
    when = "Files of the release are missing or were changed."
    remedy = "The operator should register the release again, or activate another one."


class EmbeddingInvalid(EngineError):
    """The stored embedding is damaged, or its shape differs from the declared one."""

    code = "embedding_invalid"
    when = "The stored embedding of the prompt variant is damaged."
    remedy = (
        "The operator should encode the prompt variant again (its page in the admin, or "
        "`manage.py catalogue encode --again`), then retry the job."
    )


class EmbeddingMismatch(EngineError):
    """The embedding was made with a different text encoder from the release's. Encode the prompt variant again."""

    code = "embedding_mismatch"
    when = "The embedding was made with a different text encoder from the release's."
    remedy = "Submit the job again. If this persists, the operator should compare the encoder fingerprints."


class TextTooLong(EngineError):
    """The text has more tokens than the text encoder accepts."""

    code = "text_too_long"


class SizeNotSupported(EngineError):
    """The release does not support this image size."""

    code = "size_not_supported"
    when = "The release does not support this image size."
    remedy = "Use a size that GET /v1/releases/{name} lists."


class OutOfMemory(EngineError):
    """The device ran out of memory even for a single image."""

    code = "out_of_memory"
    retryable = True
    when = "The device has too little memory for one image of this size."
    remedy = "Request a smaller size. The operator should check what else uses the device."


class NotFinite(EngineError):
    """The network returned values that are not finite. Load the release with dtype float32."""

    code = "not_finite"
    when = "The network returned values that are not finite: the range of its dtype is too small."
    remedy = "The operator should set DTYPE=float32."


class DeviceUnavailable(EngineError):
    """The requested device is not available."""

    code = "device_unavailable"
    retryable = True
    is_infrastructure = True
    when = "The device of the worker is not available."
    remedy = "The operator should check DEVICE and the driver."


class DeviceFailed(DeviceUnavailable):
    """The device of the worker failed, or makes no progress."""
