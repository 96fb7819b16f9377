"""Decoding of untrusted files: a square of the teacher's size, or an error code."""

import contextlib
import io

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from distillation.examples import decoding
from distillation.examples.decoding import Crop, Refused
from tests.distillation.pictures import SIDE, animated, as_bytes, picture, png, png_header

SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="99" height="99"><script>alert(1)</script></svg>'
HTML = b"<!doctype html><title>404</title>"


def decoded(content: bytes) -> np.ndarray:
    """uint8 [SIDE, SIDE, 3]"""
    crop = decoding.decode(content, side=SIDE)
    image = Image.open(io.BytesIO(crop.png))
    assert (image.format, image.mode, image.size) == ("PNG", "RGB", (SIDE, SIDE))
    return np.asarray(image)


def refusal(content: bytes) -> Refused:
    with pytest.raises(Refused) as caught:
        decoding.decode(content, side=SIDE)
    assert caught.value.detail
    return caught.value


# --- pictures -------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_a_picture_becomes_its_centre_square_at_the_teachers_size(kind):
    image = picture(1, width=300, height=100)
    crop = decoding.decode(as_bytes(image, kind, quality=95), side=SIDE)
    assert (crop.width, crop.height) == (300, 100)
    centre = image.crop((100, 0, 200, 100)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    difference = decoded(as_bytes(image, kind, quality=95)) - np.asarray(centre, np.int16)
    assert np.abs(difference).mean() < 3


def test_a_picture_that_was_taken_sideways_is_turned_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90° clockwise
    sideways = as_bytes(picture(2).rotate(90, expand=True), "jpeg", quality=95, exif=exif)
    upright = as_bytes(picture(2), "jpeg", quality=95)
    assert np.abs(decoded(sideways) - decoded(upright).astype(np.int16)).mean() < 4


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK"])
def test_every_kind_of_colour_becomes_rgb(mode):
    kind = "jpeg" if mode == "CMYK" else "png"
    expected = picture(3).convert("L" if mode in ("L", "LA") else "RGB")
    found = decoded(as_bytes(picture(3).convert(mode), kind)).astype(np.int16)
    if mode != "1":
        wanted = decoded(as_bytes(expected.convert("RGB")))
        assert np.abs(found - wanted).mean() < (12 if mode in ("P", "CMYK") else 2)


def test_sixteen_bits_of_grey_are_not_cut_off_at_255():
    ramp = np.linspace(0, 65535, 100 * 100).reshape(100, 100).astype(np.uint16)
    found = decoded(as_bytes(Image.fromarray(ramp)))
    assert found.min() < 5 and found.max() > 250 and abs(float(found.mean()) - 127) < 3


def test_transparent_pixels_become_white():
    clear = Image.new("RGBA", (80, 80), (200, 0, 0, 0))
    assert (decoded(as_bytes(clear)) == 255).all()


def test_colours_of_another_profile_become_srgb_and_a_broken_profile_is_ignored():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    # A screen whose red is blue and whose blue is red.
    for old, new in ((b"rXYZ", b"...."), (b"bXYZ", b"rXYZ"), (b"....", b"bXYZ")):
        profile = profile.replace(old, new, 1)
    plain = decoded(png(4)).astype(np.int16)
    other = decoded(as_bytes(picture(4), icc_profile=profile))
    assert np.abs(other - plain[..., ::-1]).mean() < 6 < np.abs(other - plain).mean()
    assert np.array_equal(decoded(as_bytes(picture(4), icc_profile=b"no profile")), plain)


def test_a_file_with_a_photograph_and_a_preview_is_read_as_the_photograph():
    both = as_bytes(picture(5), "mpo", save_all=True, append_images=[picture(6)])
    assert np.abs(decoded(both) - decoded(as_bytes(picture(5), "jpeg")).astype(np.int16)).mean() < 1


# --- invalid files --------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "empty"),
        (SVG, "format"),
        (HTML, "format"),
        (as_bytes(picture(), "gif"), "format"),
        (as_bytes(picture(), "bmp"), "format"),
        (as_bytes(picture(), "tiff"), "format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n", "format"),
        (png()[:-200], "broken"),
        (as_bytes(picture(), "jpeg")[:-400], "broken"),
        (as_bytes(picture(), "webp")[:-100], "broken"),
        (png()[:20], "broken"),
        (b"\x89PNG\r\n\x1a\n", "format"),
        (png_header(90_000, 90_000), "too_many_pixels"),
        (png_header(12_000, 12_000), "too_many_pixels"),
        (png_header(2**31 - 1, 2**31 - 1), "too_many_pixels"),
        (png_header(0, 0), "format"),
        (png_header(100, 100), "broken"),
        (png(width=300, height=SIDE - 1), "too_small"),
        (animated("png"), "animated"),
        (animated("webp"), "animated"),
    ],
    ids=[
        "empty", "svg", "html", "gif", "bmp", "tiff", "postscript", "png cut off", "jpeg cut off", "webp cut off",
        "png header cut off", "png signature alone", "bomb", "between PIL's warning and error", "largest bomb",
        "no pixels", "pixels missing", "too small", "animated png", "animated webp",
    ],
)  # fmt: skip
def test_an_invalid_file_is_refused_with_its_code(content, code):
    assert refusal(content).code == code


def test_a_text_chunk_that_unpacks_to_a_hundred_megabytes_is_refused():
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "a" * 100_000_000, zip=True)
    content = as_bytes(picture(), pnginfo=info)
    assert len(content) < 200_000 and refusal(content).code == "broken"


def test_damaged_bytes_are_decoded_or_refused_without_other_errors():
    noise = np.random.default_rng(0)
    for kind in ("png", "jpeg", "webp"):
        whole = bytearray(as_bytes(picture(7), kind))
        for _ in range(60):
            damaged = bytearray(whole)
            for place in noise.integers(0, len(damaged), 4):
                damaged[place] = noise.integers(0, 256)
            with contextlib.suppress(Refused):
                assert isinstance(decoding.decode(bytes(damaged), side=SIDE), Crop)


# --- alike ----------------------------------------------------------------------------------------
def test_a_copy_in_another_file_is_found_and_another_picture_is_not():
    original = decoding.decode(png(1), side=SIDE)
    others = np.stack(
        [
            decoding.words(decoding.decode(png(seed), side=SIDE).perceptual_hash)
            for seed in (2, 1, 3)
        ]
    )
    smaller = picture(1).resize((72, 60), Image.Resampling.LANCZOS)
    for content in (as_bytes(picture(1), "jpeg", quality=60), as_bytes(smaller)):
        copy = decoding.decode(content, side=48)
        assert decoding.nearest(copy.perceptual_hash, others) == 1
    assert decoding.nearest(decoding.decode(png(9), side=SIDE).perceptual_hash, others) is None
    assert decoding.nearest(original.perceptual_hash, others[:0]) is None
