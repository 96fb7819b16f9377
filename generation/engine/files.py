"""Encoding of pixels to image files, conversion of file formats, thumbnails. Thread-safe."""

import io
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from PIL import ExifTags, Image, PngImagePlugin

if TYPE_CHECKING:  # the web process also converts files, and has no NumPy
    import numpy as np
    import numpy.typing as npt

# Fast settings without visible blocks: encoding the file is the longest CPU work of a job.
SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    "webp": {"quality": 90, "method": 1},
    "png": {"compress_level": 1},
    "jpeg": {"quality": 92, "subsampling": 0},  # 4:2:0 blurs saturated edges
}
FORMATS = tuple(SAVE_OPTIONS)
THUMBNAIL_PIXELS = 256  # longest side; twice the displayed size, for high-density screens
THUMBNAIL_OPTIONS: dict[str, Any] = {"quality": 85, "method": 1}
PREVIEW_FORMAT = "webp"
PREVIEW_OPTIONS: dict[str, Any] = {"quality": 60, "method": 0}  # shown for a moment
SOFTWARE = "Retort"


def encode(
    pixels: "npt.NDArray[np.uint8] | Image.Image",
    output_format: str,
    *,
    metadata: Mapping[str, object] | None = None,
) -> bytes:
    """Return an image file. pixels: uint8, (height, width, 3), or a Pillow image; output_format: of FORMATS.

    metadata: written as JSON to the text `Description` of a PNG, or the EXIF tag `ImageDescription` of other formats.
    Without it the file contains only pixels.
    """
    if output_format not in SAVE_OPTIONS:
        raise ValueError(f"{output_format!r} is not one of {', '.join(FORMATS)}")
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    options = dict(SAVE_OPTIONS[output_format])
    if metadata is not None:
        options |= _described(json.dumps(metadata), output_format)
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, output_format, **options)
    return buffer.getvalue()


def _described(text: str, output_format: str) -> dict[str, Any]:
    """Return Pillow's options. text: ASCII, as required by both fields."""
    if output_format == "png":
        chunks = PngImagePlugin.PngInfo()
        chunks.add_text("Description", text)
        chunks.add_text("Software", SOFTWARE)
        return {"pnginfo": chunks}
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = text
    exif[ExifTags.Base.Software] = SOFTWARE
    return {"exif": exif}


def render(
    content: bytes, output_format: str, *, metadata: Mapping[str, object] | None = None
) -> bytes:
    """Convert to another format. content: an image file, normally the lossless PNG; metadata: as for `encode`."""
    with Image.open(io.BytesIO(content)) as image:
        return encode(image, output_format, metadata=metadata)


def preview(pixels: "npt.NDArray[np.uint8]") -> bytes:
    """Return a small file in PREVIEW_FORMAT, encoded fast. pixels: uint8, (height, width, 3)."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, PREVIEW_FORMAT, **PREVIEW_OPTIONS)
    return buffer.getvalue()


def thumbnail(content: bytes) -> bytes:
    """Return a WebP of at most THUMBNAIL_PIXELS on its longest side; smaller images keep their size."""
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(content)) as image:
        small = image.convert("RGB")
    small.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
    small.save(buffer, "webp", **THUMBNAIL_OPTIONS)
    return buffer.getvalue()
