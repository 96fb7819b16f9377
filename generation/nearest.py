"""Which prompt variants are nearest to a text: the encode worker's answers to `questions`. Decides nothing.

A text's vector is its encoder's output at the end-of-text token, which CLIP's text encoders take for the whole text. Of
a stored embedding only that row is read.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import structlog
from django.db import connection

from generation import encoding, matching, questions, releases, wording
from generation.engine import tokens
from generation.models import Embedding
from generation.questions import Answer, Near, Question

if TYPE_CHECKING:
    from generation.engine.encoder import Encoder

log = structlog.get_logger(__name__)

SHOWN = 3
READ_AT_ONCE = 1000
VALUE_BYTES = 2  # float16

Vectors = npt.NDArray[np.float32]
_indexes: "dict[str, Index]" = {}  # of this process, by encoder fingerprint


def answer_waiting() -> None:
    """Answer every question that waits. Raises nothing: whoever calls it has other work to do as well."""
    while taken := questions.take():
        asked, question = taken
        try:
            found = _answer(question)
        except Exception:
            log.exception("question_failed")
            found = Answer(failure="The encode worker failed; its log says why.")
        questions.answer(asked, question, found)


def _answer(question: Question) -> Answer:
    fingerprint = question.encoder_fingerprint
    in_use = {release.encoder_fingerprint: release for release in releases.encoders_in_use()}
    for gone in set(_indexes) - set(in_use):
        del _indexes[gone]
    release = in_use.get(fingerprint)
    encoder = encoding.load(release) if release else None
    if release is None or encoder is None:
        return Answer(
            failure="The text encoder cannot be loaded; the encode worker's log says why."
        )
    index = _indexes.get(fingerprint)
    if index is None:
        index = _indexes[fingerprint] = Index(encoder, releases.folder(release))
    if index.stamp != question.stamp:
        index.refresh()
    return Answer(tuple(index.nearest(question.text)))


class Index:
    """The catalogue under one encoder: a unit vector and the words of each variant."""

    def __init__(self, encoder: "Encoder", folder: Path) -> None:
        self.stamp = ""
        self._encoder = encoder
        self._tokenizer = tokens.load_tokenizer(folder)
        self._tokens, self._width = encoder.shape
        self._rows: dict[int, tuple[int, str]] = {}  # embedding → variant, normalised text
        self._vectors: Vectors = np.empty((0, self._width), np.float32)  # in the order of _rows
        self._vocabulary: set[str] = set()

    def __len__(self) -> int:
        return len(self._rows)

    def refresh(self) -> None:
        """Read what is new and forget what is gone."""
        fingerprint = self._encoder.fingerprint
        stamp = matching.stamp(fingerprint)
        rows = {
            pk: (variant, normalized, text)
            for pk, variant, normalized, text in matching.encoded(fingerprint).values_list(
                "pk", "variant_id", "variant__normalized_text", "text"
            )
        }
        places = {pk: place for place, pk in enumerate(self._rows)}
        kept = [pk for pk in places if pk in rows]
        read = self._read({pk: text for pk, (_, _, text) in rows.items() if pk not in places})
        self._vectors = np.concatenate(
            [
                self._vectors[[places[pk] for pk in kept]],
                *(vector[None] for vector in read.values()),
            ]
        )
        self._rows = {pk: rows[pk][:2] for pk in (*kept, *read)}
        self._vocabulary = {
            word for _, normalized in self._rows.values() for word in wording.words(normalized)
        }
        self.stamp = stamp
        log.info("catalogue_read", encoder=fingerprint[:12], variants=len(self), read=len(read))

    def _read(self, texts: dict[int, str]) -> dict[int, Vectors]:
        """The vectors of these embeddings, without those whose bytes are not of the encoder's shape."""
        found = {}
        size = self._width * VALUE_BYTES
        ids = list(texts)
        for start in range(0, len(ids), READ_AT_ONCE):
            batch = ids[start : start + READ_AT_ONCE]
            ends = [self._end(texts[pk]) for pk in batch]
            with connection.cursor() as cursor:
                cursor.execute(
                    "SELECT row.id, substring(embedding.data FROM row.first FOR %s)"
                    " FROM unnest(%s::bigint[], %s::int[]) AS row (id, first)"
                    f" JOIN {Embedding._meta.db_table} embedding ON embedding.id = row.id",
                    [size, batch, [1 + end * size for end in ends]],
                )
                for pk, data in cursor:
                    if data is not None and len(data) == size:
                        found[pk] = _unit(np.frombuffer(data, "<f2"))
        return found

    def _end(self, text: str) -> int:
        """The place of the end-of-text token: the last, with the start counted."""
        return len(self._tokenizer.encode(text).ids) - 1

    def nearest(self, text: str) -> Sequence[Near]:
        """The SHOWN nearest variants to a normalised text, nearest first."""
        count = self._end(text) + 1
        too_long = (
            f"the text has {count} tokens, and the text encoder reads {self._tokens}"
            if count > self._tokens
            else ""
        )
        scores = self._vectors @ self._vector(self._fitting(text))
        best = np.argsort(-scores, kind="stable")[:SHOWN]
        variants = list(self._rows.values())
        near = []
        for place in best:
            variant_id, normalized = variants[place]
            said = too_long or wording.objection(
                text, normalized, vocabulary=self._vocabulary, is_spelt=self._is_spelt
            )
            near.append(Near(variant_id, round(float(scores[place]), 4), said))
        return near

    def _vector(self, text: str) -> Vectors:
        (stored,) = self._encoder.encode([text])
        whole = np.frombuffer(stored.data, "<f2").reshape(stored.shape)
        return _unit(whole[self._end(text)])

    def _fitting(self, text: str) -> str:
        """As much of its beginning as the encoder reads."""
        while self._end(text) >= self._tokens:
            text = text.rpartition(" ")[0] or text[: len(text) // 2]
        return text

    def _is_spelt(self, word: str) -> bool:
        return self._end(word) > 2  # start, the word, end


def _unit(values: npt.NDArray) -> Vectors:
    vector = values.astype(np.float32)
    return vector / max(float(np.linalg.norm(vector)), 1e-12)
