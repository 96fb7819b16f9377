"""Two releases side by side: their pictures of the same prompts and seeds, largest change first. Loads no torch."""

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from django.db.models import F
from PIL import Image as Pictures
from PIL import ImageChops, ImageStat

from distillation.detector.pixels import UNREADABLE
from distillation.release_comparison import pictures
from distillation.release_comparison.pictures import Picture
from generation.errors import StorageFailed
from generation.models import Embedding, Release
from generation.releases import coverage, quality

SIDE = 32  # pixels per side of the pictures whose distance is measured
MEASURED = 600  # pairs whose distance is measured


@dataclass(frozen=True)
class Pair:
    """Pictures of both releases of one prompt. embedding: the beginning of its hash; shares: of right pictures, None =
    not judged; distance: of the pictures, None = not measured."""

    slug: str
    text: str
    embedding: str
    seed: int
    first: Picture
    second: Picture
    shares: tuple[float | None, float | None]
    distance: float | None = None

    @property
    def change(self) -> float | None:
        """Return the change of the share of right pictures, None unless both were judged."""
        first, second = self.shares
        return None if first is None or second is None else second - first


def pairs(first: Release, second: Release, *, not_covered_by: Release | None = None) -> list[Pair]:
    """Return a pair for each prompt of which both have a picture with the same seed, largest change first.

    The change is that of the share of right pictures where both were judged, then the distance of the pictures.
    not_covered_by: only active prompt variants whose current text this release does not cover.
    """
    of_first, of_second = pictures.of_release(first), pictures.of_release(second)
    common = sorted(of_first.keys() & of_second.keys(), key=lambda key: (key[0], key[1]))
    lowest: dict[str, tuple[str, int]] = {}
    for key in common:
        lowest.setdefault(key[0], key)
    prompts = _prompts(first, lowest, not_covered_by)
    texts = [text for _, text, _ in prompts.values()]
    shares = [quality.of(release, texts) for release in (first, second)]
    found = []
    for sha, key in lowest.items():
        if sha not in prompts:
            continue
        slug, text, shown = prompts[sha]
        judged = [of.get(text) for of in shares]
        first_share, second_share = (None if one is None else one.share.value for one in judged)
        pair = Pair(slug, shown, *key, of_first[key], of_second[key], (first_share, second_share))
        found.append(pair)
    measured = [replace(pair, distance=_distance(pair)) for pair in found[:MEASURED]]
    return sorted([*measured, *found[MEASURED:]], key=_order)


def _order(pair: Pair) -> tuple[float, float, str]:
    return (-abs(pair.change or 0.0), -(pair.distance or 0.0), pair.slug)


def _prompts(
    first: Release, hashes: Iterable[str], not_covered_by: Release | None
) -> Mapping[str, tuple[str, str, str]]:
    """Return slug, normalised text and text by the beginning of the embedding's hash."""
    wanted = set(hashes)
    rows = Embedding.objects.filter(
        encoder_fingerprint=first.encoder_fingerprint, data__isnull=False
    )
    if not_covered_by is not None:
        new = coverage.beyond(not_covered_by)
        rows = rows.filter(variant__in=new, revision=F("variant__revision"))
    fields = ("sha256", "variant__slug", "variant__normalized_text", "text")
    return {
        sha[:24]: (slug, normalized, text)
        for sha, slug, normalized, text in rows.values_list(*fields)
        if sha[:24] in wanted
    }


# --- distance -------------------------------------------------------------------------------------
def _distance(pair: Pair) -> float | None:
    """Return the mean difference of the pictures, from 0 to 1; None if one cannot be read."""
    try:
        first, second = _small(pair.first), _small(pair.second)
    except (StorageFailed, *UNREADABLE):
        return None
    with (
        Pictures.frombytes("RGB", (SIDE, SIDE), first) as one,
        Pictures.frombytes("RGB", (SIDE, SIDE), second) as other,
    ):
        means = ImageStat.Stat(ImageChops.difference(one, other)).mean
    return sum(means) / len(means) / 255


@lru_cache(
    maxsize=4096
)  # file names are hashes of all that shapes a picture, so the content does not change
def _small(picture: Picture) -> bytes:
    with Pictures.open(io.BytesIO(picture.read())) as image:
        return image.convert("RGB").resize((SIDE, SIDE), Pictures.Resampling.BOX).tobytes()
