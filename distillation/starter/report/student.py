"""Pictures of a student of the starter, for the same measurements as the teacher's."""

import csv
from dataclasses import astuple
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
    """Return pictures of all variants that the release covers, uint8 [N, 3, height, width], and their combinations.

    catalogue: CSV file of the starter's catalogue; the tags of a variant are the words of its combination. The seeds
    are used in no training and no other evaluation.
    """
    manifest = releases.read(release)
    by_words = {frozenset(astuple(combination)): combination for combination in COMBINATIONS}
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
    requested = [by_words[frozenset(rows[slug]["tags"].split(","))] for slug in slugs]
    return (
        torch.cat([album.read(row) for row in range(len(album))]),
        tuple(combination for combination in requested for _ in range(SEEDS_EACH)),
    )
