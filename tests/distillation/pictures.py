"""Image files for tests: good ones, each different, and malicious or damaged ones."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

SIDE = 64


def picture(seed: int = 0, *, width: int = 96, height: int = 80) -> Image.Image:
    """Return blots of colour, whose perceptual hash differs from that of any other seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (14, 14, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def as_bytes(image: Image.Image, kind: str = "png", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png(seed: int = 0, **size: int) -> bytes:
    return as_bytes(picture(seed, **size))


def png_header(width: int, height: int) -> bytes:
    """Return a decompression bomb: a PNG with a size in its header and almost no data."""
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in (
            (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
            (b"IDAT", zlib.compress(b"\0" * 100)),
            (b"IEND", b""),
        )
    )


def animated(kind: str) -> bytes:
    return as_bytes(picture(1), kind, save_all=True, append_images=[picture(2), picture(3)])


def broken(content: bytes) -> bytes:
    """Return a PNG whose first chunk of pixels is too short: what follows is no chunk, and PIL raises SyntaxError."""
    return content[:33] + (10).to_bytes(4, "big") + content[37:]
