"""Store of generated images: image keys, lookup of existing images, conversion to file formats.

A key hashes everything that determines the pixels. A file format is a conversion of the same image, made once and kept.
A file with metadata belongs to one job; for other jobs the file is made from the lossless master.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import Any
from uuid import UUID

import structlog
from django.db import connection

from generation.engine import files
from generation.errors import FileMissing, StorageFailed
from generation.images import cache, references, storage
from generation.models import Embedding, Image, Job, Release

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class StoredImage:
    """A stored image. master: name of the lossless PNG, which never has metadata; file, format, sha256,
    size_bytes, has_metadata: of one file format.

    seed: set if it differs from the job's seed for this index; tries: images generated for it; is_accepted, failing,
    detector: verdict of the detector, None if not checked.
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
    has_metadata: bool = False


_KNOWN = {field.name for field in fields(StoredImage)}
_REQUIRED = {field.name for field in fields(StoredImage) if field.default is MISSING}


def from_facts(facts: Mapping[str, Any]) -> StoredImage | None:
    """Return the image from the output of `asdict`; None if another version wrote it."""
    return StoredImage(**facts) if _REQUIRED <= facts.keys() <= _KNOWN else None


def _hash(*parts: object) -> str:
    return hashlib.sha256("\n".join(str(part) for part in parts).encode()).hexdigest()


def image_key(
    release: Release, embedding: Embedding, *, seed: int, width: int, height: int, steps: int
) -> str:
    return _hash(release.manifest_sha256, embedding.sha256, seed, width, height, steps)


def key_of(job: Job, seed: int) -> str:
    """Return the key of the job's image with this seed."""
    return image_key(
        job.release,
        job.embedding,
        seed=seed,
        width=job.width,
        height=job.height,
        steps=job.num_inference_steps,
    )


def keys(job: Job) -> list[str]:
    """Return the keys of the job's images, in order of index."""
    return [key_of(job, job.seed + index) for index in range(job.n)]


def job_key(image_keys: Iterable[str], *, max_tries: int = 0) -> str:
    """Return one key for a job's images, equal for identical jobs. It depends on max_tries, since tries vary seeds."""
    return _hash(*image_keys, *([f"tries {max_tries}"] if max_tries > 1 else []))


def metadata(job: Job, seed: int) -> dict[str, object] | None:
    """Return the metadata for this image's file, without the owner; None if the job requests none."""
    if not job.has_metadata:
        return None
    return {
        "model": job.release.name,
        "manifest_sha256": job.release.manifest_sha256,
        "variant": job.variant.slug,
        "text": job.embedding.text,
        "seed": seed,
        "size": f"{job.width}x{job.height}",
        "num_inference_steps": job.num_inference_steps,
        "job": str(job.id),
        "created_at": job.created_at.isoformat(),
    }


def store(
    key: str, pixels: Any, output_format: str, *, metadata: Mapping[str, object] | None = None
) -> StoredImage:
    """Store pixels, uint8 (height, width, 3), losslessly and as `output_format`. Raises StorageFailed.

    metadata: written to the file of this format, if given.
    """
    height, width, _ = pixels.shape
    file = master = storage.save(files.encode(pixels, "png"), "png")
    if output_format != "png" or metadata is not None:
        content = files.encode(pixels, output_format, metadata=metadata)
        file = storage.save(content, output_format)
    return StoredImage(
        key,
        master.name,
        file.name,
        output_format,
        file.sha256,
        file.size_bytes,
        width,
        height,
        has_metadata=metadata is not None,
    )


def render(job: Job, index: int, image: StoredImage) -> StoredImage:
    """Return the image in the job's file format, with metadata if the job requests it. Raises StorageFailed."""
    embedded = metadata(job, job.seed + index if image.seed is None else image.seed)
    if embedded is None and _is_plain(image, job.output_format) and not gone([image]):
        return image
    content = files.render(storage.read(image.master), job.output_format, metadata=embedded)
    file = storage.save(content, job.output_format)
    return replace(
        image,
        file=file.name,
        format=job.output_format,
        sha256=file.sha256,
        size_bytes=file.size_bytes,
        has_metadata=embedded is not None,
    )


def _is_plain(image: StoredImage, output_format: str) -> bool:
    return image.format == output_format and not image.has_metadata


def answers(job: Job, stored: Iterable[StoredImage]) -> bool:
    """Return whether these images can answer the job. Jobs with quality control need judged images."""
    return not job.max_tries or all(image.is_accepted is not None for image in stored)


def remember(images: Iterable[StoredImage]) -> None:
    """Cache stored images. Call after commit."""
    # Without the tries, which belong to one job.
    kept = [replace(image, seed=None, tries=1) for image in images if not image.has_metadata]
    cache.put({f"{image.key}.{image.format}": asdict(image) for image in kept})


def forget(images: Iterable[StoredImage]) -> None:
    """Remove images from the cache. Rows, if any, remain."""
    cache.forget(f"{image.key}.{image.format}" for image in images)


def cached(wanted: Collection[str]) -> list[StoredImage]:
    """Return the cached images with these keys, in any format."""
    return [
        image
        for output_format in files.FORMATS
        for image in _cached(wanted, output_format).values()
    ]


def hold(images: Iterable[StoredImage]) -> set[str]:
    """Lock the files until the transaction ends. Return the names of unusable ones. Raises StorageFailed."""
    held = list(images)
    references.hold({name for image in held for name in (image.file, image.master)})
    return gone(held)


def sync(images: Iterable[StoredImage]) -> None:
    """Wait until the files that this process stored are on the disk. Raises StorageFailed if one is not."""
    storage.sync({name for image in images for name in (image.file, image.master)})


def gone(images: Iterable[StoredImage]) -> set[str]:
    """Return the names of files that are missing or have another size. Raises StorageFailed.

    The files are synced to the disk, so that rows may refer to them.
    """
    seen = list(images)
    sync(seen)
    promised = {image.file: image.size_bytes for image in seen}
    names = sorted(promised)
    sizes = dict(zip(names, storage.at_once(storage.size, names), strict=True))
    for name, size_bytes in sizes.items():
        if size_bytes not in (None, promised[name]):
            log.error("file_damaged", file=name, size_bytes=size_bytes, promised=promised[name])
    return {name for name in names if sizes[name] != promised[name]}


def find(job: Job) -> list[StoredImage] | None:
    """Return the job's images in order of index, or None if any is missing. Files are checked but not locked.

    Call `hold` in the transaction that inserts their rows.
    """
    own = keys(job)
    found = {} if job.has_metadata else _cached(own, job.output_format)
    lost = gone(found.values())
    forget(image for image in found.values() if image.file in lost)
    found = {key: image for key, image in found.items() if image.file not in lost}
    missing = [key for key in own if key not in found]
    if missing:
        rows = _rows(missing)
        made = {
            key: image
            for index, key in enumerate(own)
            if key in rows and (image := _file(job, index, rows[key])) is not None
        }
        remember(made.values())
        found |= made
    return [found[key] for key in own] if len(found) == len(own) else None


def find_rows(jobs: Iterable[Job]) -> dict[UUID, list[StoredImage]]:
    """Return the existing images of these jobs, in order of index, by job. One query, without the cache."""
    wanted = {job: keys(job) for job in jobs}
    rows = _rows([key for own in wanted.values() for key in own])
    found = {}
    for job, own in wanted.items():
        if all(key in rows for key in own):
            answered = [_file(job, index, rows[key]) for index, key in enumerate(own)]
            if all(image is not None for image in answered):
                found[job.id] = [image for image in answered if image is not None]
    return found


def _cached(wanted: Collection[str], output_format: str) -> dict[str, StoredImage]:
    found = cache.get(f"{key}.{output_format}" for key in wanted)
    return {image.key: image for facts in found.values() if (image := from_facts(facts))}


# Hand-written: it runs at every request with a seed, and the ORM takes longer than PostgreSQL.
_STORED = """
SELECT DISTINCT key, master, file, format, sha256, size_bytes, width, height, is_accepted, failing, detector,
                has_metadata
  FROM generation_image WHERE key = ANY(%(keys)s::text[]) ORDER BY is_accepted DESC NULLS LAST
"""


def _rows(wanted: Collection[str]) -> dict[str, list[StoredImage]]:
    """Return the images in PostgreSQL by key."""
    known: dict[str, list[StoredImage]] = {}
    with connection.cursor() as cursor:
        cursor.execute(_STORED, {"keys": list(wanted)})
        names = [column.name for column in cursor.description or ()]
        for row in cursor.fetchall():
            image = StoredImage(**dict(zip(names, row, strict=True)))
            known.setdefault(image.key, []).append(image)
    return known


def _file(job: Job, index: int, candidates: Sequence[StoredImage]) -> StoredImage | None:
    """Return an image in the job's format: an existing file, or one converted from the lossless master."""
    if not job.has_metadata:
        for image in candidates:
            if _is_plain(image, job.output_format) and not gone([image]):
                return image
    for image in candidates:
        if not storage.exists(image.master):
            continue
        try:
            return render(job, index, image)
        except (StorageFailed, OSError) as error:
            # Treated as missing: generated again.
            log.warning("image_unreadable", file=image.master, error=str(error))
            return None
    return None


def content(image: Image) -> bytes:
    """Return the image's file, made again from the master if it is lost or damaged.

    Raises StorageFailed; FileMissing if the file is missing and cannot be made again.
    """
    try:
        return storage.read(image.file)
    except StorageFailed:
        if image.file == image.master or image.has_metadata or not storage.exists(image.master):
            raise
        made = files.render(storage.read(image.master), image.format)
        if hashlib.sha256(made).hexdigest() != image.sha256:
            raise  # the encoder has another version
        storage.save(made, image.format)
        log.warning("file_restored", file=image.file)
        return made


def thumbnail(*names: str) -> str:
    """Return the name of the thumbnail of the first of these files that is intact; make it if missing.

    Raises StorageFailed; FileMissing if none is intact.
    """
    name = storage.thumbnail_name(names[0])
    if not storage.size(name):  # 0: truncated by a power failure
        content = _first(names)
        try:
            storage.keep(name, files.thumbnail(content))
        except OSError as error:
            raise StorageFailed(f"The source of {name} is not a valid image: {error}") from error
    return name


def _first(names: Sequence[str]) -> bytes:
    """Return the content of the first of these files that is intact. Raises StorageFailed."""
    *preferred, last = names
    for name in preferred:
        with suppress(FileMissing):
            return storage.read(name)
    return storage.read(last)
