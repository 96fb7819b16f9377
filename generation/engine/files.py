"""Pixels to image files and from one file format to another. Knows no tensors; safe to call from several threads."""

import io
from typing import TYPE_CHECKING, Any

from PIL import Image

if TYPE_CHECKING:  # the web process renders files too, and has no NumPy
    import numpy as np
    import numpy.typing as npt

# Chosen for speed at a quality that shows no blocks: nothing else of a job takes as long on the CPU as its file.
SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    "webp": {"quality": 90, "method": 1},
    "png": {"compress_level": 1},
    "jpeg": {"quality": 92, "subsampling": 0},  # 4:2:0 smears saturated edges
}
FORMATS = tuple(SAVE_OPTIONS)


def encode(pixels: "npt.NDArray[np.uint8] | Image.Image", output_format: str) -> bytes:
    """An image file. pixels: uint8, (height, width, 3), or a Pillow image; output_format: of FORMATS."""
    if output_format not in SAVE_OPTIONS:
        raise ValueError(f"{output_format!r} is not one of {', '.join(FORMATS)}")
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, output_format, **SAVE_OPTIONS[output_format])
    return buffer.getvalue()


def render(content: bytes, output_format: str) -> bytes:
    """An image file in another format. content: a whole image file, normally the lossless PNG."""
    with Image.open(io.BytesIO(content)) as image:
        return encode(image, output_format)
