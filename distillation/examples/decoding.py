"""Decoding of untrusted image files to square sRGB crops, with the reason for a refusal."""

import io
from dataclasses import dataclass

import imagehash
import numpy as np
from PIL import Image, ImageOps

from distillation.detector import pixels

FORMATS = ("PNG", "JPEG", "WEBP")  # PIL tries no other decoder
MAX_BYTES = 32 * 2**20
MAX_PIXELS = 50_000_000  # of a large camera; decoded they take 150 MB
HASH_BITS = 16  # per side: 256 in total
# Maximum difference of a copy. Measured on 480 images of 20 variants: copies saved as JPEG, resized or with more
# contrast differ in at most 16 bits in 99 of 100 cases, strongly compressed or brightened ones in 90; the closest two
# images of one variant differ in 30, of two variants in 20. With 64 bits, images of one variant are as close as copies:
# 0.4 % of all pairs are within 4 bits, and few of a thousand images would be left.
NEAR_BITS = 16


class Refused(Exception):
    """The file is not usable as an example. code: for programs and filters; the message is for people."""

    def __init__(self, code: str, detail: str, *, width: int = 0, height: int = 0) -> None:
        self.code, self.detail, self.width, self.height = code, detail, width, height
        super().__init__(f"{code}: {detail}")


@dataclass(frozen=True)
class Crop:
    """png: of side × side pixels. width, height: of the file. perceptual_hash: hexadecimal."""

    png: bytes
    width: int
    height: int
    perceptual_hash: str


def decode(content: bytes, *, side: int) -> Crop:
    """Return the centre square, upright, resized to side × side pixels. Raises only Refused."""
    if not content:
        raise Refused("empty", "The file is empty.")
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Refused("too_many_pixels", str(error)) from error
    except Image.UnidentifiedImageError as error:
        raise Refused("format", f"The format is not one of {', '.join(FORMATS)}.") from error
    except Exception as error:  # decoders raise undocumented errors on hostile bytes
        raise Refused("broken", _message(error)) from error
    with image:
        width, height = image.size
        try:
            _check(image, side)
            square = pixels.srgb(_square(ImageOps.exif_transpose(image), side))
            file = io.BytesIO()
            square.save(file, "png")
        except Refused as refused:
            refused.width, refused.height = width, height
            raise
        except Exception as error:
            raise Refused("broken", _message(error), width=width, height=height) from error
    return Crop(file.getvalue(), width, height, str(imagehash.phash(square, HASH_BITS)))


def words(perceptual_hash: str) -> np.ndarray:
    """Return the hash as uint64 [4]."""
    return np.frombuffer(bytes.fromhex(perceptual_hash), np.uint64)


def nearest(perceptual_hash: str, others: np.ndarray) -> int | None:
    """Return the row of the closest hash in `others` (words, uint64 [n, 4]) if it is close enough for a copy."""
    if not len(others):
        return None
    bits = np.bitwise_count(others ^ words(perceptual_hash)).sum(1)
    row = int(bits.argmin())
    return row if bits[row] <= NEAR_BITS else None


def _check(image: Image.Image, side: int) -> None:
    """Check the header before pixels are decoded."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise Refused(
            "too_many_pixels",
            f"It has {width} × {height} pixels; at most {MAX_PIXELS} are decoded.",
        )
    if min(width, height) < side:
        raise Refused(
            "too_small",
            f"It has {width} × {height} pixels; the teacher's images have {side} × {side}.",
        )
    # A JPEG with several images is a photograph with a preview or depth map: the first one counts.
    if image.format in ("PNG", "WEBP") and getattr(image, "n_frames", 1) > 1:
        raise Refused("animated", "It has more than one frame.")


def _square(image: Image.Image, side: int) -> Image.Image:
    width, height = image.size
    short = min(width, height)
    left, top = (width - short) // 2, (height - short) // 2
    square = pixels.plain(image.crop((left, top, left + short, top + short)))
    return square.resize((side, side), Image.Resampling.LANCZOS)


def _message(error: Exception) -> str:
    return (str(error) or type(error).__name__)[:300]
