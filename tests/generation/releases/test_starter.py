"""The shipped starter: a release that verifies, a catalogue that fits it, images that show their prompts."""

import csv

import pytest
import torch
from diffusers import StableDiffusionPipeline

from generation.engine import pipeline, release
from generation.engine.prompts import encoder, tokens
from generation.engine.request import GenerationRequest
from generation.releases.lifecycle import STARTER

TEACHER = STARTER / "teacher-2"


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    with (STARTER / "catalogue.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_teacher_verifies() -> None:
    manifest = release.verify(TEACHER)
    assert (manifest.name, manifest.kind, manifest.has_encoder) == (
        "starter-teacher-2",
        "teacher",
        True,
    )
    assert manifest.timesteps[0] == 999  # pure noise: it was trained with zero terminal SNR


def test_the_teacher_is_small_enough_to_be_committed() -> None:
    assert sum(path.stat().st_size for path in TEACHER.rglob("*") if path.is_file()) <= 64_000_000


def test_stock_diffusers_loads_the_teacher_and_generates() -> None:
    stock = StableDiffusionPipeline.from_pretrained(
        TEACHER, torch_dtype=torch.float32, local_files_only=True
    )
    stock.set_progress_bar_config(disable=True)
    image = stock(
        "a red clay ball on a marble slab",
        num_inference_steps=10,
        guidance_scale=2.0,
        generator=torch.Generator().manual_seed(3),
        output_type="np",
    ).images[0]
    assert image.shape == (128, 128, 3)
    middle = image[48:80, 48:80].reshape(-1, 3).mean(axis=0)
    assert middle[0] > 1.5 * max(middle[1:])  # it is red


def test_every_text_of_the_catalogue_is_unique_short_and_fits(rows: list[dict[str, str]]) -> None:
    assert len(rows) == 256
    assert len({row["slug"] for row in rows}) == len({row["text"] for row in rows}) == 256
    assert "a red glass vase on a wooden table" in {row["text"] for row in rows}
    for row in rows:
        assert len(row["text"].split()) <= 12
        assert tokens.count_tokens(TEACHER, row["text"]) <= tokens.limit(TEACHER)
        assert (row["status"], len(row["tags"].split(","))) == ("active", 4)


@pytest.mark.slow
def test_the_teacher_draws_the_requested_colours() -> None:
    loaded = pipeline.load(TEACHER, device="cpu", threads=1)
    texts = [f"a {colour} clay ball on a marble slab" for colour in ("red", "green", "blue")]
    embeddings = encoder.load(TEACHER).encode(texts)
    results = loaded.generate([GenerationRequest(row, 3, 128, 128) for row in embeddings])
    for strongest, result in enumerate(results):
        assert result.pixels is not None
        middle = result.pixels[48:80, 48:80].reshape(-1, 3).mean(axis=0)
        assert middle.argmax() == strongest


@pytest.mark.parametrize(
    ("side", "made_by"), [("student", "starter-student-3"), ("teacher", "starter-teacher-2")]
)
def test_the_counts_of_each_prompt_are_those_of_the_evaluation_in_the_manifest(
    side: str, made_by: str
) -> None:
    with (STARTER / "quality.csv").open(encoding="utf-8", newline="") as file:
        counted = [row for row in csv.DictReader(file) if row["release"] == made_by]
    measured = release.read(STARTER / "student-3").evaluation
    assert measured is not None
    right, judged = (sum(int(row[name]) for row in counted) for name in ("right", "judged"))
    assert (len(counted), judged) == (measured["prompts"], 256 * measured["seeds_each"])
    assert right / judged == pytest.approx(measured["right"][side]["value"], abs=1e-6)
