"""Images that exist already: what key an image has, where a stored one lies, and its rendering in another file format.

A key hashes everything that decides the pixels. A file format is a rendering of the same image, made once and kept.
"""

import hashlib
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass

from generation import cache, storage
from generation.engine import files
from generation.models import Embedding, Image, Job, Release


@dataclass(frozen=True)
class StoredImage:
    """An image in the storage. master: name of the lossless PNG; file, format, sha256, size_bytes: of one rendering."""

    key: str
    master: str
    file: str
    format: str
    sha256: str
    size_bytes: int
    width: int
    height: int


def _hash(*parts: object) -> str:
    return hashlib.sha256("\n".join(str(part) for part in parts).encode()).hexdigest()


def image_key(
    release: Release, embedding: Embedding, *, seed: int, width: int, height: int, steps: int
) -> str:
    return _hash(release.manifest_sha256, embedding.sha256, seed, width, height, steps)


def keys(job: Job) -> list[str]:
    """Of the job's images, in order of index."""
    return [
        image_key(
            job.release,
            job.embedding,
            seed=job.seed + index,
            width=job.width,
            height=job.height,
            steps=job.num_inference_steps,
        )
        for index in range(job.n)
    ]


def job_key(image_keys: Iterable[str]) -> str:
    """Of a job's images together: identical jobs have the same."""
    return _hash(*image_keys)


def store(key: str, pixels, output_format: str) -> StoredImage:
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
    if image.format == output_format:
        return image
    file = storage.save(files.render(storage.read(image.master), output_format), output_format)
    return StoredImage(
        image.key,
        image.master,
        file.name,
        output_format,
        file.sha256,
        file.size_bytes,
        image.width,
        image.height,
    )


def remember(images: Iterable[StoredImage]) -> None:
    """Put stored images into the cache. Call after commit."""
    cache.put({f"{image.key}.{image.format}": asdict(image) for image in images})


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
        found |= _from_rows(missing, output_format)
    return found if len(found) == len(set(wanted)) else None


def find_rows(job: Job) -> list[StoredImage]:
    """The images of an identical job that has ended, in order of index; empty if any is missing. Asks PostgreSQL."""
    wanted = keys(job)
    found = _from_rows(wanted, job.output_format)
    return [found[key] for key in wanted] if len(found) == len(wanted) else []


def _from_rows(wanted: list[str], output_format: str) -> dict[str, StoredImage]:
    best: dict[str, StoredImage] = {}
    fields = ("key", "master", "file", "format", "sha256", "size_bytes", "width", "height")
    for row in Image.objects.filter(key__in=wanted).values(*fields).distinct():
        image = StoredImage(**row)
        known = best.get(image.key)
        if storage.exists(image.file) and (known is None or image.format == output_format):
            best[image.key] = image
    rendered = {
        key: render(image, output_format)
        for key, image in best.items()
        if image.format == output_format or storage.exists(image.master)
    }
    remember(rendered.values())
    return rendered
