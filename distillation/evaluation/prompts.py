"""The prompts and seeds of an evaluation."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from generation.engine.embeddings import pack
from generation.engine.request import StoredEmbedding

Seeds = tuple[tuple[int, ...], ...]  # [prompts][seeds of each]
SEEDS_EACH = 512  # reserved for each prompt; all of them below 2**40, which trainings do not use


@dataclass(frozen=True)
class Prompts:
    """P prompt variants with their stored embeddings and the bits they state.

    prompt_embeds: fp16 [P, tokens, width]; encoder_fingerprint: of the encoder that made them.
    wanted, stated: bool [P, bits] of the detector, or both None. A bit that is stated must be present where it is
    wanted and absent where it is not; a bit that is not stated may be either.
    """

    slugs: tuple[str, ...]
    texts: tuple[str, ...]
    prompt_embeds: Tensor
    encoder_fingerprint: str
    wanted: Tensor | None = None
    stated: Tensor | None = None

    def __post_init__(self) -> None:
        count = len(self.slugs)
        if not count or len(set(self.slugs)) != count:
            raise ValueError(f"slugs: give distinct ones, at least one, not {count}.")
        if len(self.texts) != count:
            raise ValueError(f"texts: {len(self.texts)} of {count} prompt variants.")
        if self.prompt_embeds.ndim != 3 or len(self.prompt_embeds) != count:
            raise ValueError(
                f"prompt_embeds: [{count}, tokens, width], not {list(self.prompt_embeds.shape)}."
            )
        if (self.wanted is None) != (self.stated is None):
            raise ValueError("wanted: it comes with stated, or both are None.")
        for name, value in (("wanted", self.wanted), ("stated", self.stated)):
            if value is not None and (value.dtype != torch.bool or len(value) != count):
                raise ValueError(
                    f"{name}: bool [{count}, bits], not {value.dtype} {list(value.shape)}."
                )
        if self.wanted is not None and self.stated is not None:
            if self.wanted.shape != self.stated.shape or self.wanted.ndim != 2:
                raise ValueError(
                    f"stated: {list(self.stated.shape)}, and wanted {list(self.wanted.shape)}."
                )
            if (self.wanted & ~self.stated).any():
                raise ValueError("wanted: a bit that is wanted must be stated.")

    def __len__(self) -> int:
        return len(self.slugs)

    def embedding(self, row: int) -> StoredEmbedding:
        """Return an embedding as an input of the engine."""
        return pack(self.prompt_embeds[row].float().numpy(), self.encoder_fingerprint)

    def take(self, rows: Sequence[int]) -> "Prompts":
        chosen = list(rows)
        return Prompts(
            tuple(self.slugs[row] for row in chosen),
            tuple(self.texts[row] for row in chosen),
            self.prompt_embeds[chosen],
            self.encoder_fingerprint,
            None if self.wanted is None else self.wanted[chosen],
            None if self.stated is None else self.stated[chosen],
        )

    def of(self, slugs: Sequence[str]) -> "Prompts":
        """Return the prompts of these slugs, in their order. Raises KeyError."""
        places = {slug: row for row, slug in enumerate(self.slugs)}
        return self.take([places[slug] for slug in slugs])


def seeds_of(slugs: Sequence[str], *, each: int, skip: int = 0) -> Seeds:
    """Return the seeds of each prompt. They depend on its slug alone, so that a second evaluation reuses the pictures.

    skip: number of seeds left to other evaluations.
    """
    if each < 1 or skip < 0 or each + skip > SEEDS_EACH:
        raise ValueError(f"{each} seeds each after {skip}: give at least 1, {SEEDS_EACH} in all.")
    firsts = [SEEDS_EACH * _number(slug) + skip for slug in slugs]
    return tuple(tuple(range(first, first + each)) for first in firsts)


def _number(slug: str) -> int:
    """Return a hash of 31 bits."""
    return int.from_bytes(hashlib.sha256(slug.encode()).digest()[:4], "big") >> 1


def check_seeds(seeds: Seeds, prompts: Prompts) -> None:
    """Raise ValueError unless each prompt has the same number of distinct seeds."""
    if len(seeds) != len(prompts):
        raise ValueError(f"seeds: of {len(seeds)} prompts, not of {len(prompts)}.")
    if not seeds[0] or any(len(row) != len(seeds[0]) for row in seeds):
        raise ValueError("seeds: each prompt has as many, at least one.")
    if any(len(set(row)) != len(row) for row in seeds):
        raise ValueError("seeds: a prompt has the same seed twice.")
