"""Pixels to image files and from one file format to another. Knows no tensors; safe to call from several threads."""

import io
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from PIL import ExifTags, Image, PngImagePlugin

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
THUMBNAIL_PIXELS = 256  # longest side; twice what pages show, for sharp screens
THUMBNAIL_OPTIONS: dict[str, Any] = {"quality": 85, "method": 1}
PREVIEW_FORMAT = "webp"
PREVIEW_OPTIONS: dict[str, Any] = {"quality": 60, "method": 0}  # seen for a moment
SOFTWARE = "Retort"


def encode(
    pixels: "npt.NDArray[np.uint8] | Image.Image",
    output_format: str,
    *,
    metadata: Mapping[str, object] | None = None,
) -> bytes:
    """An image file. pixels: uint8, (height, width, 3), or a Pillow image; output_format: of FORMATS.

    metadata: written into the file as JSON, in the text `Description` of a PNG, in the EXIF tag `ImageDescription` of
    the others. Without it the file holds the pixels and nothing else.
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
    """Options of Pillow. text: ASCII, as both kinds of field want it."""
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
    """An image file in another format. content: a whole image file, normally the lossless PNG; metadata: as above."""
    with Image.open(io.BytesIO(content)) as image:
        return encode(image, output_format, metadata=metadata)


def preview(pixels: "npt.NDArray[np.uint8]") -> bytes:
    """A small file, made quickly, in PREVIEW_FORMAT. pixels: uint8, (height, width, 3)."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, PREVIEW_FORMAT, **PREVIEW_OPTIONS)
    return buffer.getvalue()


def thumbnail(content: bytes) -> bytes:
    """A WebP of at most THUMBNAIL_PIXELS on its longest side; a smaller picture keeps its size."""
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(content)) as image:
        small = image.convert("RGB")
    small.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
    small.save(buffer, "webp", **THUMBNAIL_OPTIONS)
    return buffer.getvalue()
