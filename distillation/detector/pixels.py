"""Pixels of image files as people see them: 8 bits, sRGB, on white where they are transparent.

The web process imports this module, so it imports NumPy only for 16-bit pictures.
"""

import io

from PIL import Image, ImageCms

UNREADABLE = (OSError, SyntaxError, ValueError)  # what PIL raises for a damaged file
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
WHITE = (255, 255, 255)  # background of transparent images, as in a browser


def plain(image: Image.Image) -> Image.Image:
    """Convert to a mode that can be resized: no palette, 8 bits per channel."""
    if image.mode.startswith("I"):  # 16-bit grey, in one of PIL's modes
        import numpy as np

        values = np.asarray(image).astype(np.int64).clip(0, 65535) >> 8
        return Image.fromarray(values.astype(np.uint8))
    if image.mode in ("P", "PA", "LA", "1") or "transparency" in image.info:
        return image.convert("RGBA")
    return image


def srgb(image: Image.Image) -> Image.Image:
    """Convert a plain image to sRGB without transparency."""
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
            pass  # as browsers do: ignore an unreadable profile or one for other channels
    return image.convert("RGB")
