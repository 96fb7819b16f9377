"""Parts of the catalogue with similar texts, as tags: k-means of the text vectors in the stored embeddings.

Not for the web process: it reads the vectors with the text encoder's tokenizer.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from django.db import transaction
from scipy.cluster.vq import ClusterError, kmeans2

from generation.catalogue import editing, encoding, matching
from generation.catalogue.nearest import Index
from generation.engine.prompts.text_vectors import TextVectors
from generation.errors import EncoderUnavailable, InvalidRequest
from generation.models import PromptVariant
from generation.releases import lifecycle as releases

PREFIX = "part-"
NAMED = re.compile(rf"{PREFIX}\d+")
STARTS = 16  # of k-means, each from other centres; the one with the least squared distances counts
ROUNDS = 100
TAGS, TEXTS = 5, 3  # of a part that are shown


@dataclass(frozen=True)
class Part:
    """variants: primary keys; tags: the most typical ones, each with its number of variants here and in all parts;
    texts: nearest to the centre."""

    name: str
    variants: tuple[int, ...]
    tags: tuple[tuple[str, int, int], ...]
    texts: tuple[str, ...]


def find(count: int) -> list[Part]:
    """Return so many parts of the active, encoded variants, the largest first; the same at each call.

    Raises InvalidRequest and EncoderUnavailable.
    """
    ids, vectors = _vectors()
    if not 2 <= count <= len(ids):
        raise InvalidRequest(
            f"Give a number of parts from 2 to {len(ids)}, the number of encoded prompt variants, not {count}."
        )
    labels, centres = split(vectors, count)
    rows = PromptVariant.objects.in_bulk(ids)
    total = Counter(tag for row in rows.values() for tag in _own(row.tags))
    sizes = Counter(labels.tolist())
    found = []
    for number, label in enumerate(sorted(sizes, key=lambda one: (-sizes[one], one)), start=1):
        places = np.flatnonzero(labels == label)
        distances = np.linalg.norm(vectors[places] - centres[label], axis=1)
        middle = places[np.argsort(distances, kind="stable")[:TEXTS]]
        here = [rows[ids[place]] for place in places]
        found.append(
            Part(
                f"{PREFIX}{number}",
                tuple(row.pk for row in here),
                _typical(Counter(tag for row in here for tag in _own(row.tags)), total),
                tuple(rows[ids[place]].text for place in middle),
            )
        )
    return found


def write(parts: Sequence[Part]) -> int:
    """Tag the variants with the names of their parts instead of those of earlier parts. Return how many changed."""
    earlier = {tag for tags in PromptVariant.objects.values_list("tags", flat=True) for tag in tags}
    names = {tag for tag in earlier if NAMED.fullmatch(tag)}
    with transaction.atomic():
        placed = [pk for part in parts for pk in part.variants]
        others = PromptVariant.objects.exclude(pk__in=placed).filter(tags__overlap=sorted(names))
        changed = editing.change_tags(others, remove=sorted(names)).count
        for part in parts:
            rows = PromptVariant.objects.filter(pk__in=part.variants)
            removed = sorted(names - {part.name})
            changed += editing.change_tags(rows, add=[part.name], remove=removed).count
    return changed


def split(
    vectors: npt.NDArray[np.float32], count: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float64]]:
    """Return the part of each vector, [N], and the centres, [count, d], by k-means++. vectors: [N, d].

    Raises InvalidRequest if there are fewer different vectors than parts.
    """
    values, best = vectors.astype(np.float64), None
    is_possible = len(np.unique(values, axis=0)) >= count
    for seed in range(STARTS if is_possible else 0):
        try:
            centres, labels = kmeans2(
                values, count, iter=ROUNDS, minit="++", missing="raise", rng=seed
            )
        except ClusterError:  # a part without a vector
            continue
        error = float(((values - centres[labels]) ** 2).sum())
        if best is None or error < best[0]:
            best = error, labels, centres
    if best is None:
        raise InvalidRequest(f"The texts are too similar for {count} parts. Give fewer.")
    return best[1], best[2]


def _vectors() -> tuple[list[int], npt.NDArray[np.float32]]:
    fingerprint = matching.compared_encoder()
    held = {release.encoder_fingerprint: release for release in releases.encoders_in_use()}
    encoder = None if fingerprint is None else encoding.load(held[fingerprint])
    if fingerprint is None or encoder is None:
        raise EncoderUnavailable(
            "No text encoder of an active release is on this machine, so the stored embeddings cannot be read. Use a "
            "machine that has it."
        )
    index = Index(TextVectors(encoder, releases.folder(held[fingerprint])))
    index.refresh()
    return index.vectors()


def _own(tags: Iterable[str]) -> list[str]:
    """Return the tags but those of parts."""
    return [tag for tag in tags if not NAMED.fullmatch(tag)]


def _typical(here: Counter[str], total: Counter[str]) -> tuple[tuple[str, int, int], ...]:
    """Return the tags that are here most of all: by their number here × the share of all of them that is here."""
    ranked = sorted(here, key=lambda tag: (-(here[tag] ** 2) / total[tag], tag))
    return tuple((tag, here[tag], total[tag]) for tag in ranked[:TAGS])
