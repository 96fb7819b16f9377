"""Search of the encode worker for the prompt variants nearest to a text."""

import numpy as np
import numpy.typing as npt
import structlog
from django.db import connection

from generation.catalogue import encoding, match_requests, matching, objections
from generation.catalogue.match_requests import Answer, Near, Question
from generation.engine.prompts.text_vectors import TextVectors, Vector
from generation.infra import heartbeat, notifications, stalls
from generation.infra.watchdog import CHECK_SECONDS, Watchdog
from generation.models import Embedding
from generation.releases import lifecycle as releases

log = structlog.get_logger(__name__)

SHOWN = 3
READ_AT_ONCE = 1000

_indexes: "dict[str, Index]" = {}  # in this process, by encoder fingerprint


def begin() -> None:
    """Start the heartbeat of an encode worker. The encoder is loaded later, for the first text."""
    watchdog = Watchdog(
        is_work_waiting=match_requests.are_waiting,
        send=lambda: notifications.match(CHECK_SECONDS),
        task_seconds=stalls.unknown_bound(),
    )
    heartbeat.begin("encode", device="cpu", tick=watchdog.check)


def answer_waiting() -> None:
    """Answer all waiting questions. Raises nothing."""
    while taken := match_requests.take():
        asked, question = taken
        try:
            found = _answer(question)
        except Exception:
            log.exception("text_not_compared")
            found = Answer(failure="The encode worker failed; the reason is in its log.")
        match_requests.answer(asked, question, found)
        stalls.progressed()


def _answer(question: Question) -> Answer:
    fingerprint = question.encoder_fingerprint
    in_use = {release.encoder_fingerprint: release for release in releases.encoders_in_use()}
    for gone in set(_indexes) - set(in_use):
        del _indexes[gone]
    release = in_use.get(fingerprint)
    encoder = encoding.load(release) if release else None
    if release is None or encoder is None:
        return Answer(
            failure="The text encoder cannot be loaded; the reason is in the encode worker's log."
        )
    index = _indexes.get(fingerprint)
    if index is None:
        index = Index(TextVectors(encoder, releases.folder(release)))
        _indexes[fingerprint] = index
    if index.stamp != question.stamp:
        index.refresh()
    return Answer(index.nearest(question.text))


class Index:
    """The encoded catalogue in memory: a vector and the normalised text of each variant."""

    def __init__(self, texts: TextVectors) -> None:
        self.stamp = ""
        self._texts = texts
        self._rows: dict[int, tuple[int, str]] = {}  # embedding → variant, normalised text
        self._vectors: npt.NDArray[np.float32] = np.empty((0, texts.width), np.float32)
        self._vocabulary: set[str] = set()

    def __len__(self) -> int:
        return len(self._rows)

    def refresh(self) -> None:
        """Read new embeddings and drop deleted ones."""
        fingerprint = self._texts.fingerprint
        self.stamp = matching.stamp(fingerprint)
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
                *(vector[np.newaxis] for vector in read.values()),
            ]
        )
        self._rows = {pk: rows[pk][:2] for pk in (*kept, *read)}
        self._vocabulary = {
            word for _, normalized in self._rows.values() for word in objections.words(normalized)
        }
        log.info("catalogue_read", encoder=fingerprint[:12], variants=len(self), read=len(read))

    def _read(self, texts: dict[int, str]) -> dict[int, Vector]:
        """Return the vectors of these embeddings, except ones whose shape is not the encoder's."""
        found = {}
        ids = list(texts)
        for start in range(0, len(ids), READ_AT_ONCE):
            batch = ids[start : start + READ_AT_ONCE]
            with connection.cursor() as cursor:
                cursor.execute(
                    "SELECT wanted.id, substring(stored.data FROM wanted.first FOR %s)"
                    " FROM unnest(%s::bigint[], %s::int[]) AS wanted (id, first)"
                    f" JOIN {Embedding._meta.db_table} stored ON stored.id = wanted.id",
                    [self._texts.bytes, batch, [1 + self._texts.offset(texts[pk]) for pk in batch]],
                )
                for pk, data in cursor:
                    if data is not None and len(data) == self._texts.bytes:
                        found[pk] = self._texts.read(data)
            stalls.progressed()
        return found

    def vectors(self) -> tuple[list[int], npt.NDArray[np.float32]]:
        """Return the ids of the variants, and their vectors in the same order, [N, width]."""
        return [variant for variant, _ in self._rows.values()], self._vectors

    def nearest(self, text: str) -> tuple[Near, ...]:
        """Return the SHOWN variants nearest to a normalised text, nearest first."""
        count = self._texts.count(text)
        too_long = (
            f"the text is too long: {count} words or parts of words, and the text encoder reads"
            f" {self._texts.max_tokens}"
            if count > self._texts.max_tokens
            else ""
        )
        ways = dict.fromkeys((text, objections.plain(text) or text))  # the higher score counts
        scores = np.max([self._vectors @ self._texts.encode(way) for way in ways], axis=0)
        variants = list(self._rows.values())
        near = []
        for place in np.argsort(-scores, kind="stable")[:SHOWN]:
            variant_id, normalized = variants[place]
            said = too_long or objections.objection(
                text, normalized, vocabulary=self._vocabulary, is_split=self._texts.is_split
            )
            near.append(Near(variant_id, round(float(scores[place]), 4), said))
        return tuple(near)
