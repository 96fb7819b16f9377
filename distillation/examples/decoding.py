"""A picture out of the bytes of a file that nobody vouches for: a square crop in sRGB, or why not. Knows no file."""

import io
from dataclasses import dataclass

import imagehash
import numpy as np
from PIL import Image, ImageCms, ImageOps

FORMATS = ("PNG", "JPEG", "WEBP")  # PIL tries no other decoder, whatever the bytes say
MAX_BYTES = 32 * 2**20
MAX_PIXELS = 50_000_000  # a large camera's; decoded they take 150 MB
HASH_BITS = 16  # a side: 256 in all
# Of these. Measured on 480 pictures of 20 variants: copies that were saved as JPEG, resized or given more contrast
# differ in at most 16 bits in 99 of 100 cases, hard compressed or brighter ones in 90; the closest two pictures of one
# variant differ in 30, of two variants in 20. At 64 bits pictures of one variant are as close as copies: 0.4 % of all
# pairs are within 4 bits, and of a thousand pictures few would be left.
NEAR_BITS = 16
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
WHITE = (255, 255, 255)  # what shows through where a picture is transparent, as in a browser


class Refused(Exception):
    """The file is no example. code: for machines and filters; the message says more to people."""

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
    """The centre square, upright, resized to side × side pixels. Raises Refused, and nothing else."""
    if not content:
        raise Refused("empty", "The file has no bytes.")
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Refused("too_many_pixels", str(error)) from error
    except Image.UnidentifiedImageError as error:
        raise Refused("format", f"It is none of {', '.join(FORMATS)}.") from error
    except (
        Exception
    ) as error:  # decoders meet hostile bytes, and fail in ways that they do not list
        raise Refused("broken", _said(error)) from error
    with image:
        width, height = image.size
        try:
            _check(image, side)
            square = _rgb(_square(ImageOps.exif_transpose(image), side))
            file = io.BytesIO()
            square.save(file, "png")
        except Refused as refused:
            refused.width, refused.height = width, height
            raise
        except Exception as error:
            raise Refused("broken", _said(error), width=width, height=height) from error
    return Crop(file.getvalue(), width, height, str(imagehash.phash(square, HASH_BITS)))


def words(perceptual_hash: str) -> np.ndarray:
    """uint64 [4]"""
    return np.frombuffer(bytes.fromhex(perceptual_hash), np.uint64)


def nearest(perceptual_hash: str, others: np.ndarray) -> int | None:
    """Row of the hash of `others` (words, uint64 [n, 4]) that differs least, if it is that of a copy."""
    if not len(others):
        return None
    bits = np.bitwise_count(others ^ words(perceptual_hash)).sum(1)
    row = int(bits.argmin())
    return row if bits[row] <= NEAR_BITS else None


def _check(image: Image.Image, side: int) -> None:
    """From the header alone, before a pixel is decoded."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise Refused(
            "too_many_pixels",
            f"It has {width} × {height}, at most {MAX_PIXELS} pixels are decoded.",
        )
    if min(width, height) < side:
        raise Refused(
            "too_small",
            f"It has {width} × {height} pixels, the teacher's pictures {side} × {side}.",
        )
    # A JPEG of several pictures is a photograph with a preview or a depth map beside it: the first one counts.
    if image.format in ("PNG", "WEBP") and getattr(image, "n_frames", 1) > 1:
        raise Refused("animated", "It has several frames.")


def _square(image: Image.Image, side: int) -> Image.Image:
    width, height = image.size
    short = min(width, height)
    left, top = (width - short) // 2, (height - short) // 2
    square = _plain(image.crop((left, top, left + short, top + short)))
    return square.resize((side, side), Image.Resampling.LANCZOS)


def _plain(image: Image.Image) -> Image.Image:
    """In a mode that can be resized: without a palette, 8 bits a channel."""
    if image.mode.startswith("I"):  # grey of 16 bits, in one of PIL's several ways to say so
        values = np.asarray(image).astype(np.int64).clip(0, 65535) >> 8
        return Image.fromarray(values.astype(np.uint8))
    if image.mode in ("P", "PA", "LA", "1") or "transparency" in image.info:
        return image.convert("RGBA")
    return image


def _rgb(image: Image.Image) -> Image.Image:
    """sRGB without transparency."""
    if image.mode == "RGBA":
        whole = Image.new("RGBA", image.size, WHITE)
        whole.alpha_composite(image)
        return _in_srgb(whole.convert("RGB"), image.info.get("icc_profile"))
    return _in_srgb(image, image.info.get("icc_profile"))


def _in_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    if profile and image.mode in ("RGB", "CMYK", "L"):
        try:
            converted = ImageCms.profileToProfile(
                image, io.BytesIO(profile), SRGB, outputMode="RGB"
            )
            if converted is not None:
                return converted
        except (ImageCms.PyCMSError, OSError, ValueError):
            pass  # as browsers do: a profile that cannot be read, or is of other channels, says nothing
    return image.convert("RGB")


def _said(error: Exception) -> str:
    return (str(error) or type(error).__name__)[:300]
