"""The prompts of an evaluation."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from generation.engine.prompts.embeddings import pack
from generation.engine.request import StoredEmbedding


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
