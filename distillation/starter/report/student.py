"""Pictures of a student of the starter, for the same measures as the teacher's."""

import csv
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from distillation.evaluation import pictures
from distillation.evaluation.prompts import Prompts, seeds_of
from distillation.starter.words import COMBINATIONS, Combination
from generation.engine import release as releases
from generation.engine.prompts.prompt_embeds import TENSOR

SEEDS_EACH = 2  # pictures of each prompt variant


def make(
    release: Path, catalogue: Path, cache: Path, *, progress_bar: bool
) -> tuple[Tensor, tuple[Combination, ...]]:
    """Return pictures of all that the release covers, uint8 [N, 3, height, width], and what they were to show.

    catalogue: the starter's, whose tags are the words. The seeds occur in no training and no other evaluation.
    """
    manifest = releases.read(release)
    known = {frozenset(_words(combination)): combination for combination in COMBINATIONS}
    with catalogue.open(encoding="utf-8") as file:
        rows = {row["slug"]: row for row in csv.DictReader(file)}
    slugs = manifest.covered_variants
    prompts = Prompts(
        tuple(slugs),
        tuple(rows[slug]["text"] for slug in slugs),
        load_file(release / releases.PROMPT_EMBEDS)[TENSOR],
        manifest.encoder_fingerprint,
    )
    album = pictures.make(
        release,
        prompts,
        seeds_of(slugs, each=SEEDS_EACH, run="starter-report"),
        cache=cache,
        title="student",
        progress_bar=progress_bar,
    )
    asked = [known[frozenset(rows[slug]["tags"].split(","))] for slug in slugs]
    return (
        torch.cat([album.read(row) for row in range(len(album))]),
        tuple(combination for combination in asked for _ in range(SEEDS_EACH)),
    )


def _words(combination: Combination) -> tuple[str, ...]:
    return combination.object, combination.colour, combination.material, combination.ground
