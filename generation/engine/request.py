"""Requests and results of the engine, frozen. Imports no torch; NumPy only for types."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True)
class StoredEmbedding:
    """Stored output of a text encoder.

    data: raw little-endian values, row-major; shape: (tokens, width); dtype: a NumPy name, normally "float16".
    """

    data: bytes
    shape: tuple[int, int]
    dtype: str
    sha256: str
    encoder_fingerprint: str


@dataclass(frozen=True)
class GenerationRequest:
    """Request for one image. It gives the same image at any batch size, within the tolerance of `pipeline`."""

    embedding: StoredEmbedding
    seed: int
    width: int
    height: int


@dataclass(frozen=True)
class GenerationResult:
    """Pixels, uint8 (height, width, 3), or the error of a failed request, or neither for a dropped one."""

    request: GenerationRequest
    pixels: npt.NDArray[np.uint8] | None
    error: Exception | None = None


@dataclass
class Timings:
    """Seconds of one call of `Pipeline.generate` by phase."""

    unet_seconds: float = 0.0
    decoder_seconds: float = 0.0
    preview_seconds: float = 0.0  # not included in the other two
    batches: list[int] = field(
        default_factory=list
    )  # images per U-Net batch; more than one entry after out of memory
