from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from distillation.evaluation import pictures
from distillation.evaluation.seeds import Seeds
from generation.engine import pipeline as pipelines
from generation.engine import release as releases
from generation.engine.errors import EmbeddingInvalid, EngineError
from generation.engine.request import GenerationRequest
from tests.distillation.evaluation import toys

SEEDS = ((5, 6), (7, 8))


def make(cache: Path, *, prompts: int = 2, seeds: Seeds | None = None) -> pictures.Album:
    return pictures.make(
        toys.student_folder(),
        toys.prompts(prompts),
        seeds or SEEDS[:prompts],
        cache=cache,
        title="pictures",
        progress_bar=False,
    )


def test_pictures_are_those_that_the_release_serves(tmp_path: Path):
    album = make(tmp_path)
    found = album.read(1)
    assert found.shape == (2, 3, toys.SIZE, toys.SIZE) and found.dtype == torch.uint8
    request = GenerationRequest(toys.prompts(2).embedding(1), 8, toys.SIZE, toys.SIZE)
    [served] = pipelines.load(toys.student_folder()).generate([request])
    tolerance = pipelines.TOLERANCE["bfloat16"]
    expected = torch.from_numpy(served.pixels).permute(2, 0, 1)
    assert (found[1].int() - expected.int()).abs().max() <= tolerance


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image).astype(int)


def test_an_interrupted_batch_continues_and_makes_no_picture_twice(tmp_path: Path):
    album = make(tmp_path)
    paths = [path for row in album.paths for path in row]
    made = {path: path.stat().st_mtime_ns for path in paths}
    before = pixels(paths[2])
    paths[2].unlink()
    assert make(tmp_path).paths == album.paths
    # Alone in its batch it is rounded differently.
    assert np.abs(pixels(paths[2]) - before).max() <= 1
    assert all(path.stat().st_mtime_ns == made[path] for path in paths if path != paths[2])


def test_nothing_is_loaded_if_all_pictures_exist(tmp_path: Path):
    paths = [path for row in make(tmp_path).paths for path in row]

    def refuse():
        raise RuntimeError("loaded")

    pictures.make_missing(paths, refuse, title="none", progress_bar=False)
    with pytest.raises(RuntimeError, match="loaded"):
        pictures.make_missing([tmp_path / "new.png"], refuse, title="one", progress_bar=False)


def test_another_prompt_seed_or_release_has_other_files(tmp_path: Path):
    first = {path for row in make(tmp_path).paths for path in row}
    more = {p for row in make(tmp_path, seeds=((5, 9), (7, 8))).paths for p in row}
    assert len(first & more) == 3 and len(first | more) == 5
    album = pictures.make(
        toys.teacher_folder(),
        toys.prompts(2),
        SEEDS,
        cache=tmp_path,
        title="teacher",
        progress_bar=False,
    )
    assert not first & {path for row in album.paths for path in row}


def test_the_error_of_a_failed_picture_is_raised(tmp_path: Path):
    prompts = toys.prompts(1)
    stored = replace(prompts.embedding(0), sha256="0" * 64)
    request = GenerationRequest(stored, 1, toys.SIZE, toys.SIZE)
    path = tmp_path / "bad.png"
    with pytest.raises(EmbeddingInvalid) as caught:
        pictures.make_missing(
            [path],
            lambda: (pipelines.load(toys.student_folder()), {path: request}),
            title="bad",
            progress_bar=False,
        )
    assert isinstance(caught.value, EngineError) and not path.exists()


def test_prompts_of_another_encoder_or_not_covered_are_refused():
    prompts = toys.prompts(2)
    manifest = releases.read(toys.student_folder())
    pictures.check_covered(manifest, prompts)
    with pytest.raises(ValueError, match="Encode them"):
        pictures.check_covered(manifest, replace(prompts, encoder_fingerprint="f" * 64))
    with pytest.raises(ValueError, match="does not cover prompt-1"):
        pictures.check_covered(replace(manifest, covered_variants=["prompt-0"]), prompts)


def test_a_folder_of_real_pictures_needs_at_least_two(tmp_path: Path):
    album = make(tmp_path / "cache")
    found = pictures.image_files(tmp_path)
    assert found == sorted(path for row in album.paths for path in row)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="at least two"):
        pictures.image_files(tmp_path / "empty")


def test_pictures_are_read_upright_and_on_white(tmp_path: Path):
    """Upright, and on white where they are transparent."""
    clear = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    clear.save(tmp_path / "clear.png")
    turned = Image.new("RGB", (4, 2), (9, 9, 9))
    exif = turned.getexif()
    exif[0x0112] = 6  # orientation: a quarter
    turned.save(tmp_path / "turned.png", exif=exif)
    assert pictures.read(tmp_path / "clear.png").unique().tolist() == [255]
    assert pictures.read(tmp_path / "turned.png").shape == (3, 4, 2)
