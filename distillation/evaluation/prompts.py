"""The prompts and seeds of an evaluation."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from generation.engine.prompts.embeddings import pack
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
        rows = {len(self.slugs), len(self.texts), len(self.prompt_embeds)}
        rows |= {len(part) for part in (self.stated, self.wanted) if part is not None}
        if len(rows) != 1 or not self.slugs:
            raise ValueError(f"Give one row for each prompt variant, at least one, not {rows}.")

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


def seeds_of(slugs: Sequence[str], *, each: int, skip: int = 0, run: str = "") -> Seeds:
    """Return the seeds of each prompt. They depend on its slug alone, so that a second evaluation reuses the pictures.

    skip: number of seeds left to other evaluations. run: a name; then the seeds depend on it as well, so that they are
    new for each run, and the same when it is resumed.
    """
    if each < 1 or skip < 0 or each + skip > SEEDS_EACH:
        raise ValueError(f"{each} seeds each after {skip}: give at least 1, {SEEDS_EACH} in all.")
    names = [f"{slug} {run}" for slug in slugs] if run else slugs  # a slug contains no space
    firsts = [SEEDS_EACH * _number(name) + skip for name in names]
    return tuple(tuple(range(first, first + each)) for first in firsts)


def _number(name: str) -> int:
    """Return a hash of 31 bits."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") >> 1
