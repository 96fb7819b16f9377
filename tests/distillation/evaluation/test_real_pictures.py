from pathlib import Path

import pytest
from PIL import Image, ImageFilter

from distillation.evaluation import real_pictures
from distillation.evaluation.pictures import Album
from generation.engine import release as releases
from tests.distillation.evaluation import toys
from tests.distillation.evaluation.drawings import drawing


def album(folder: Path, *, blur: float) -> Album:
    """Of 16 prompts with two drawings each, at the size of the tiny release."""
    folder.mkdir()
    rows = []
    for prompt in range(16):
        paths = tuple(folder / f"{prompt}-{seed}.png" for seed in range(2))
        for seed, path in enumerate(paths):
            image = drawing(2 * prompt + seed, side=toys.SIZE)
            image.filter(ImageFilter.GaussianBlur(blur)).save(path)
        rows.append(paths)
    return Album(releases.read(toys.teacher_folder()), tuple(rows))


def real(folder: Path, *, size: tuple[int, int]) -> Path:
    """Drawings of the albums' kind at the albums' size, scaled to `size`."""
    folder.mkdir()
    for seed in range(1000, 1024):
        drawing(seed, side=toys.SIZE).resize(size).save(folder / f"{seed}.png")
    return folder


def test_a_blurred_release_has_less_of_the_sharpness_of_real_pictures(tmp_path: Path):
    albums = {
        "student": album(tmp_path / "a", blur=1.0),
        "teacher": album(tmp_path / "b", blur=0.0),
    }
    found = real_pictures.compare(
        albums, real(tmp_path / "real", size=(toys.SIZE, toys.SIZE)), progress_bar=False
    )
    student, teacher = found["student"], found["teacher"]
    assert (teacher.real, teacher.side) == (24, toys.SIZE)
    assert teacher.gradient == pytest.approx(1, abs=0.15) and student.gradient < 0.8
    assert student.laplacian < 0.5 < teacher.laplacian
    assert teacher.texture and student.texture and student.texture.low > teacher.texture.high


@pytest.mark.parametrize(("size", "side"), [((32, 32), 32), ((96, 80), toys.SIZE)])
def test_both_sets_are_measured_at_the_smaller_size(tmp_path: Path, size, side):
    albums = {"student": album(tmp_path / "a", blur=0.0)}
    found = real_pictures.compare(albums, real(tmp_path / "real", size=size), progress_bar=False)
    assert found["student"].side == side


def test_real_pictures_of_one_colour_are_refused(tmp_path: Path):
    (tmp_path / "real").mkdir()
    for number in range(2):
        Image.new("RGB", (64, 64), "white").save(tmp_path / "real" / f"{number}.png")
    with pytest.raises(ValueError, match="one colour"):
        real_pictures.compare({"student": album(tmp_path / "a", blur=0)}, tmp_path / "real")
