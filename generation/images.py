"""Images that exist already: what key an image has, where a stored one lies, and its rendering in another file format.

A key hashes everything that decides the pixels. A file format is a rendering of the same image, made once and kept.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any
from uuid import UUID

import structlog
from django.db.models import F

from generation import cache, storage
from generation.engine import files
from generation.errors import StorageFailed
from generation.models import Embedding, Image, Job, Release

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class StoredImage:
    """An image in the storage. master: name of the lossless PNG; file, format, sha256, size_bytes: of one rendering.

    seed: if it is not the job's own for this index; tries: pictures made for it; is_accepted, failing, detector: what
    was found in it, None if nobody looked.
    """

    key: str
    master: str
    file: str
    format: str
    sha256: str
    size_bytes: int
    width: int
    height: int
    seed: int | None = None
    tries: int = 1
    is_accepted: bool | None = None
    failing: Sequence[str] = ()
    detector: str = ""


def _hash(*parts: object) -> str:
    return hashlib.sha256("\n".join(str(part) for part in parts).encode()).hexdigest()


def image_key(
    release: Release, embedding: Embedding, *, seed: int, width: int, height: int, steps: int
) -> str:
    return _hash(release.manifest_sha256, embedding.sha256, seed, width, height, steps)


def key_of(job: Job, seed: int) -> str:
    """Of the job's image with this seed."""
    return image_key(
        job.release,
        job.embedding,
        seed=seed,
        width=job.width,
        height=job.height,
        steps=job.num_inference_steps,
    )


def keys(job: Job) -> list[str]:
    """Of the job's images, in order of index."""
    return [key_of(job, job.seed + index) for index in range(job.n)]


def job_key(image_keys: Iterable[str], *, max_tries: int = 0) -> str:
    """Of a job's images together: identical jobs have the same. One that may end with other seeds is like no other."""
    return _hash(*image_keys, *([f"tries {max_tries}"] if max_tries > 1 else []))


def store(key: str, pixels: Any, output_format: str) -> StoredImage:
    """Store an image, pixels uint8 (height, width, 3), losslessly and as `output_format`. Raises StorageFailed."""
    height, width, _ = pixels.shape
    master = storage.save(files.encode(pixels, "png"), "png")
    file = (
        master
        if output_format == "png"
        else storage.save(files.encode(pixels, output_format), output_format)
    )
    return StoredImage(
        key, master.name, file.name, output_format, file.sha256, file.size_bytes, width, height
    )


def render(image: StoredImage, output_format: str) -> StoredImage:
    """The same image as another file. Raises StorageFailed."""
    if image.format == output_format and storage.exists(image.file):
        return image
    file = storage.save(files.render(storage.read(image.master), output_format), output_format)
    return replace(
        image,
        file=file.name,
        format=output_format,
        sha256=file.sha256,
        size_bytes=file.size_bytes,
    )


def answers(job: Job, stored: Iterable[StoredImage]) -> bool:
    """Whether these may be delivered as the job's: one whose pictures are to be judged takes no others."""
    return not job.max_tries or all(image.is_accepted is not None for image in stored)


def remember(images: Iterable[StoredImage]) -> None:
    """Put stored images into the cache. Call after commit."""
    # Of the picture alone, whatever else one job tried before it.
    kept = [replace(image, seed=None, tries=1) for image in images]
    cache.put({f"{image.key}.{image.format}": asdict(image) for image in kept})


def find(wanted: Collection[str], output_format: str) -> dict[str, StoredImage] | None:
    """All of these images as `output_format`, or None if any is missing. Checks the files; an empty cache is fine."""
    cached = cache.get(f"{key}.{output_format}" for key in wanted)
    found = {value["key"]: StoredImage(**value) for value in cached.values()}
    gone = [image for image in found.values() if not storage.exists(image.file)]
    cache.forget(f"{image.key}.{image.format}" for image in gone)
    for image in gone:
        del found[image.key]
    missing = [key for key in wanted if key not in found]
    if missing:
        answered = _in(output_format, _rows(missing))
        remember(answered.values())
        found |= answered
    return found if len(found) == len(set(wanted)) else None


def find_rows(jobs: Iterable[Job]) -> dict[UUID, list[StoredImage]]:
    """Of these jobs those whose images exist already, in order of index. One query, to PostgreSQL alone."""
    wanted = {job: keys(job) for job in jobs}
    rows = _rows([key for own in wanted.values() for key in own])
    found = {}
    for job, own in wanted.items():
        if all(key in rows for key in own):
            answered = _in(job.output_format, {key: rows[key] for key in own})
            if len(answered) == len(own):
                found[job.id] = [answered[key] for key in own]
    return found


def _rows(wanted: Collection[str]) -> dict[str, list[StoredImage]]:
    """What PostgreSQL knows under these keys."""
    fields = ("key", "master", "file", "format", "sha256", "size_bytes", "width", "height")
    found = ("is_accepted", "failing", "detector")
    known: dict[str, list[StoredImage]] = {}
    rows = Image.objects.filter(key__in=wanted).values(*fields, *found).distinct()
    for row in rows.order_by(F("is_accepted").desc(nulls_last=True)):
        known.setdefault(row["key"], []).append(StoredImage(**row))
    return known


def _in(output_format: str, known: Mapping[str, Sequence[StoredImage]]) -> dict[str, StoredImage]:
    """One file of each image in this format: an existing one, else rendered from the lossless master if that exists."""
    chosen = {}
    for key, candidates in known.items():
        ready = [i for i in candidates if i.format == output_format and storage.exists(i.file)]
        masters = [i for i in candidates if storage.exists(i.master)]
        if ready:
            chosen[key] = ready[0]
        elif masters:
            try:
                chosen[key] = render(masters[0], output_format)
            except (StorageFailed, OSError) as error:
                # As good as missing: it is computed again.
                log.warning("image_unreadable", file=masters[0].master, error=str(error))
    return chosen
