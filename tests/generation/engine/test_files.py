import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from generation.engine import files


@pytest.fixture
def pixels() -> np.ndarray:
    """A smooth picture, as generated ones are: a compressor that fails on it is set wrongly."""
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
def test_a_rendering_of_the_png_is_what_encoding_the_pixels_gives(
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
