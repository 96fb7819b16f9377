"""Pictures of a student of the starter, for the same measurements as the teacher's."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from distillation.evaluation import pictures
from distillation.evaluation.prompts import Prompts, seeds_of
from distillation.starter.captions import captions
from distillation.starter.words import COMBINATIONS, Combination
from generation.engine import release as releases
from generation.engine.prompts.prompt_embeds import TENSOR

SEEDS_EACH = 2  # pictures of each prompt variant


def make(
    release: Path, cache: Path, *, progress_bar: bool
) -> tuple[Tensor, tuple[Combination, ...]]:
    """Return pictures of all variants that the release covers, uint8 [N, 3, height, width], and their combinations.

    The release covers variants of the starter's catalogue. The seeds are used in no training and no other evaluation.
    """
    manifest = releases.read(release)
    by_slug = {combination.slug: combination for combination in COMBINATIONS}
    slugs = manifest.covered_variants
    requested = [by_slug[slug] for slug in slugs]
    prompts = Prompts(
        tuple(slugs),
        tuple(captions(combination)[0] for combination in requested),
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
    return (
        torch.cat([album.read(row) for row in range(len(album))]),
        tuple(combination for combination in requested for _ in range(SEEDS_EACH)),
    )
