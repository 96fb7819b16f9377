"""What crosses the engine's boundary: frozen requests and results. No torch, and NumPy for its names only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True)
class StoredEmbedding:
    """Text-encoder output as it is stored.

    data: raw little-endian values, row-major; shape: (tokens, width); dtype: a NumPy name, normally "float16".
    """

    data: bytes
    shape: tuple[int, int]
    dtype: str
    sha256: str
    encoder_fingerprint: str


@dataclass(frozen=True)
class GenerationRequest:
    """One image. The same request gives the same picture at any batch size, within the tolerance of `pipeline`."""

    embedding: StoredEmbedding
    seed: int
    width: int
    height: int


@dataclass(frozen=True)
class GenerationResult:
    """pixels: uint8, (height, width, 3). Or the error of this row, if it failed; or neither, if it was dropped."""

    request: GenerationRequest
    pixels: npt.NDArray[np.uint8] | None
    error: Exception | None = None


@dataclass
class Timings:
    """Seconds of one call of `Pipeline.generate`, by part."""

    unet_seconds: float = 0.0
    decoder_seconds: float = 0.0
    preview_seconds: float = 0.0  # in neither of the two
    batches: list[int] = field(
        default_factory=list
    )  # images in each UNet batch, more than one after out of memory
