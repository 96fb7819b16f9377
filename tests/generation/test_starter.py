"""What we ship: a release that verifies, a catalogue that fits it, a picture that shows what was asked for."""

import csv

import pytest

from generation.engine import encoder, pipeline, release, tokens
from generation.engine.request import GenerationRequest
from generation.releases import STARTER

TEACHER = STARTER / "teacher"


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    with (STARTER / "catalogue.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_teacher_verifies() -> None:
    manifest = release.verify(TEACHER)
    assert (manifest.name, manifest.kind, manifest.has_encoder) == (
        "starter-teacher",
        "teacher",
        True,
    )
    assert manifest.timesteps[0] == 999  # pure noise: it was trained with zero terminal SNR


def test_every_text_of_the_catalogue_is_unique_short_and_fits(rows: list[dict[str, str]]) -> None:
    assert len(rows) == 256
    assert len({row["slug"] for row in rows}) == len({row["text"] for row in rows}) == 256
    assert "a red glass vase on a wooden table" in {row["text"] for row in rows}
    for row in rows:
        assert len(row["text"].split()) <= 12
        assert tokens.count_tokens(TEACHER, row["text"]) <= tokens.limit(TEACHER)
        assert (row["status"], len(row["tags"].split(","))) == ("active", 4)


def test_the_teacher_paints_the_colours_that_it_is_asked_for() -> None:
    loaded = pipeline.load(TEACHER, device="cpu", threads=1)
    texts = [f"a {colour} clay ball on a marble slab" for colour in ("red", "green", "blue")]
    embeddings = encoder.load(TEACHER).encode(texts)
    results = loaded.generate([GenerationRequest(row, 3, 128, 128) for row in embeddings])
    for strongest, result in enumerate(results):
        assert result.pixels is not None
        middle = result.pixels[48:80, 48:80].reshape(-1, 3).mean(axis=0)
        assert middle.argmax() == strongest
