"""Two releases side by side: their pictures of the same prompts and seeds, those that changed most first. No torch.

Pictures are those of evaluations, and those of jobs with the seed COMPARED_SEED.
"""

import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from django.db.models import QuerySet
from PIL import Image as Pictures
from PIL import ImageChops, ImageStat

from distillation.runs import folders
from generation.errors import GenerationError, StorageFailed
from generation.images import storage, store
from generation.jobs import submission
from generation.jobs.job_request import JobRequest
from generation.models import Embedding, Image, PromptVariant, Release
from generation.releases import coverage, quality

ALBUMS = "pictures"  # of evaluations: a folder for each release and device
KEY = re.compile(r"[0-9a-f]{16}")
FILE = re.compile(r"([0-9a-f]{24})-(\d+)\.png")
COMPARED_SEED = 0
MADE_AT_ONCE = 24  # prompts
SIDE = 32  # pixels a side of the pictures whose distance is measured
MEASURED = 600  # pairs whose distance is measured


@dataclass(frozen=True)
class Picture:
    """A file of an evaluation, or the storage name of a job's image."""

    path: Path | None = None
    stored: str = ""

    def read(self) -> bytes:
        """Return the file. Raises OSError and StorageFailed."""
        return self.path.read_bytes() if self.path is not None else storage.read(self.stored)


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


def pairs(first: Release, second: Release) -> list[Pair]:
    """Return a pair for each prompt that both have a picture of with one seed; what changed most comes first.

    By the share of right pictures where both were judged, then by the distance of the pictures.
    """
    of_first, of_second = _pictures(first), _pictures(second)
    common = sorted(of_first.keys() & of_second.keys(), key=lambda key: (key[0], key[1]))
    lowest: dict[str, tuple[str, int]] = {}
    for key in common:
        lowest.setdefault(key[0], key)
    prompts = _prompts(first, lowest)
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


def find(release: Release, embedding: str, seed: int) -> Picture | None:
    """Return a picture of the release by the beginning of the embedding's hash and the seed."""
    file = f"{embedding}-{seed}.png"
    if FILE.fullmatch(file) is None:
        return None
    paths = [path for folder in _albums(release.name) if (path := folder / file).is_file()]
    if paths or seed != COMPARED_SEED:
        return Picture(path=paths[-1]) if paths else None
    rows = _embeddings(release).filter(sha256__startswith=embedding)
    image = Image.objects.filter(key__in=[_key(release, row) for row in rows]).first()
    return None if image is None else Picture(stored=image.master)


def _order(pair: Pair) -> tuple[float, float, str]:
    return (-abs(pair.change or 0.0), -(pair.distance or 0.0), pair.slug)


# --- where the pictures are -----------------------------------------------------------------------
def _pictures(release: Release) -> dict[tuple[str, int], Picture]:
    """Return the pictures of a release by the beginning of the embedding's hash and the seed."""
    found = {
        (match[1], int(match[2])): Picture(path=path)
        for folder in _albums(release.name)
        for path in folder.iterdir()
        if (match := FILE.fullmatch(path.name))
    }
    return _of_jobs(release) | found


def _albums(name: str) -> list[Path]:
    """Return the folders of evaluations' pictures of the release of this name."""
    root = folders.root() / ALBUMS
    found = root.glob(f"{name}-*") if root.is_dir() else ()
    return sorted(path for path in found if KEY.fullmatch(path.name.removeprefix(f"{name}-")))


def _of_jobs(release: Release) -> dict[tuple[str, int], Picture]:
    keys = {_key(release, embedding): embedding.sha256[:24] for embedding in _embeddings(release)}
    rows = Image.objects.filter(key__in=list(keys)).values_list("key", "master")
    return {(keys[key], COMPARED_SEED): Picture(stored=master) for key, master in rows}


def _key(release: Release, embedding: Embedding) -> str:
    width, height = release.image_sizes[0]
    return store.image_key(
        release, embedding, seed=COMPARED_SEED, width=width, height=height,
        steps=release.num_inference_steps,
    )  # fmt: skip


def _embeddings(release: Release) -> QuerySet[Embedding]:
    rows = Embedding.objects.filter(
        encoder_fingerprint=release.encoder_fingerprint,
        variant__status=PromptVariant.Status.ACTIVE,
        data__isnull=False,
    )
    return rows.only("sha256")


def _prompts(first: Release, hashes: Iterable[str]) -> Mapping[str, tuple[str, str, str]]:
    """Return slug, normalised text and text by the beginning of the embedding's hash."""
    wanted = set(hashes)
    rows = Embedding.objects.filter(
        encoder_fingerprint=first.encoder_fingerprint, data__isnull=False
    )
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
    except (OSError, StorageFailed):
        return None
    with (
        Pictures.frombytes("RGB", (SIDE, SIDE), first) as one,
        Pictures.frombytes("RGB", (SIDE, SIDE), second) as other,
    ):
        means = ImageStat.Stat(ImageChops.difference(one, other)).mean
    return sum(means) / len(means) / 255


@lru_cache(maxsize=4096)  # files are named by what shapes them: their content does not change
def _small(picture: Picture) -> bytes:
    with Pictures.open(io.BytesIO(picture.read())) as image:
        return image.convert("RGB").resize((SIDE, SIDE), Pictures.Resampling.BOX).tobytes()


# --- making them ----------------------------------------------------------------------------------
def make(first: Release, second: Release, *, by: Any) -> int:
    """Submit the jobs of pictures that are missing, for some prompts that both cover. Return the number of jobs.

    Raises a GenerationError if the first job is refused.
    """
    variants = PromptVariant.objects.filter(
        coverage.condition(first), coverage.condition(second), status=PromptVariant.Status.ACTIVE
    ).order_by("slug")
    slugs = list(variants.values_list("slug", flat=True))
    # Evenly over a sorted catalogue, else they would all begin with the same word.
    count = min(len(slugs), MADE_AT_ONCE)
    chosen = [slugs[row * len(slugs) // count] for row in range(count)]
    submitted = 0
    for slug in chosen:
        for release in (first, second):
            request = JobRequest(variant=slug, seed=COMPARED_SEED, model=release.name)
            try:
                submission.submit(by, request)
            except GenerationError:
                if not submitted:
                    raise
                return submitted
            submitted += 1
    return submitted
