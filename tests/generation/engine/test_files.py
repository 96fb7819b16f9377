"""Image files: formats, rendering of a stored PNG, thumbnails."""

import io
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from generation.engine import files


@pytest.fixture
def pixels() -> np.ndarray:
    """A smooth picture, as generated ones are: a compressor that distorts it has wrong settings."""
    y, x = np.mgrid[0:96, 0:128]
    return np.stack([x * 2, y * 2, 255 - x - y // 2], axis=2).clip(0, 255).astype(np.uint8)


def read(content: bytes) -> tuple[str, np.ndarray]:
    with Image.open(io.BytesIO(content)) as image:
        return str(image.format).lower(), np.asarray(image.convert("RGB"))


@pytest.mark.parametrize(("name", "tolerance"), [("png", 0), ("webp", 6), ("jpeg", 6)])
def test_a_file_has_its_format_and_shows_the_pixels(
    pixels: np.ndarray, name: str, tolerance: int
) -> None:
    kind, shown = read(files.encode(pixels, name))
    assert kind == name
    assert shown.shape == (96, 128, 3)
    assert np.abs(shown.astype(int) - pixels).mean() <= tolerance


@pytest.mark.parametrize("name", files.FORMATS)
def test_a_rendering_of_the_png_equals_an_encoding_of_the_pixels(
    pixels: np.ndarray, name: str
) -> None:
    assert files.render(files.encode(pixels, "png"), name) == files.encode(pixels, name)


def test_threads_encode_the_same_bytes(pixels: np.ndarray) -> None:
    with ThreadPoolExecutor(4) as threads:
        contents = set(threads.map(lambda _: files.encode(pixels, "webp"), range(8)))
    assert contents == {files.encode(pixels, "webp")}


def test_an_unknown_format_is_refused(pixels: np.ndarray) -> None:
    with pytest.raises(ValueError, match="'gif' is not one of webp, png, jpeg"):
        files.encode(pixels, "gif")


def described(content: bytes) -> tuple[str, str]:
    """Return description and software, as any program reads them."""
    with Image.open(io.BytesIO(content)) as image:
        if image.format == "PNG":
            return image.text["Description"], image.text["Software"]
        exif = image.getexif()
        return exif[0x010E], exif[0x0131]


@pytest.mark.parametrize("name", files.FORMATS)
def test_metadata_is_in_the_file_and_changes_no_pixel(pixels: np.ndarray, name: str) -> None:
    plain = files.encode(pixels, name)

    content = files.encode(pixels, name, metadata={"text": "eine grüne Vase", "seed": 2**32 - 1})

    text, software = described(content)
    assert json.loads(text) == {"text": "eine grüne Vase", "seed": 2**32 - 1}
    assert software == "Retort"
    assert np.array_equal(read(content)[1], read(plain)[1])


@pytest.mark.parametrize("name", files.FORMATS)
def test_without_metadata_a_file_contains_only_the_pixels(pixels: np.ndarray, name: str) -> None:
    with_metadata = files.encode(pixels, "png", metadata={"seed": 1})

    for content in (files.encode(pixels, name), files.render(with_metadata, name)):
        assert content == files.encode(pixels, name)
        with Image.open(io.BytesIO(content)) as image:
            # What Pillow makes of the bare format: JFIF's version, WebP's animation.
            assert set(image.info) <= {
                "jfif", "jfif_version", "jfif_unit", "jfif_density", "loop", "background"
            }  # fmt: skip
            assert not image.getexif()


@pytest.mark.parametrize(
    ("size", "small"), [((800, 400), (256, 128)), ((128, 96), (128, 96)), ((64, 1000), (16, 256))]
)
def test_a_thumbnail_is_a_small_webp_and_never_larger_than_the_picture(
    size: tuple[int, int], small: tuple[int, int]
) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", size, (200, 40, 40)).save(buffer, "png")

    with Image.open(io.BytesIO(files.thumbnail(buffer.getvalue()))) as image:
        assert (image.format, image.size) == ("WEBP", small)
        assert image.convert("RGB").getpixel((5, 5)) == pytest.approx((200, 40, 40), abs=4)
