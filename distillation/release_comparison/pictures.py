"""Pictures of a release to compare: those of evaluations, and those of jobs with the seed COMPARED_SEED. No torch."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.db.models import QuerySet

from distillation import folders
from generation.errors import FileMissing, GenerationError, StorageFailed
from generation.images import storage, store
from generation.jobs import submission
from generation.jobs.job_request import JobRequest
from generation.models import Embedding, Image, PromptVariant, Release
from generation.releases import coverage

ALBUMS = "pictures"  # of evaluations: a folder for each release and device
KEY = re.compile(r"[0-9a-f]{16}")
FILE = re.compile(r"([0-9a-f]{24})-(\d+)\.png")
COMPARED_SEED = 0
MADE_AT_ONCE = 24  # prompts


@dataclass(frozen=True)
class Picture:
    """A file of an evaluation, or the storage name of a job's image."""

    path: Path | None = None
    stored: str = ""

    def read(self) -> bytes:
        """Return the file. Raises StorageFailed; FileMissing if it is missing."""
        if self.path is None:
            return storage.read(self.stored)
        try:
            return self.path.read_bytes()
        except FileNotFoundError as error:
            raise FileMissing(f"The file {self.path.name} is missing.") from error
        except OSError as error:
            raise StorageFailed(f"{self.path.name}: {error.strerror}.") from error


def of_release(release: Release) -> dict[tuple[str, int], Picture]:
    """Return the pictures of a release by the beginning of the embedding's hash and the seed."""
    found = {
        (match[1], int(match[2])): Picture(path=path)
        for folder in _albums(release.name)
        for path in folder.iterdir()
        if (match := FILE.fullmatch(path.name))
    }
    return _of_jobs(release) | found


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


def make(first: Release, second: Release, *, by: Any, not_covered_by: Release | None = None) -> int:
    """Submit the jobs of pictures that are missing, for some prompts that both cover. Return the number of jobs.

    not_covered_by: only prompts that this release does not cover. Raises a GenerationError if the first job is refused.
    """
    active = PromptVariant.objects.filter(status=PromptVariant.Status.ACTIVE)
    variants = active if not_covered_by is None else coverage.beyond(not_covered_by)
    both = variants.filter(coverage.condition(first), coverage.condition(second))
    slugs = list(both.order_by("slug").values_list("slug", flat=True))
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
