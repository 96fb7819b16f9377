"""Embeddings that a release brings along, stored for the prompt variants of the same text. Needs no tensor library.

With them a machine that serves a student alone needs no text encoder, and a first start waits for none.
"""

import hashlib
import json
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import structlog

from generation import catalogue, embeddings, releases
from generation.engine import release as release_format
from generation.engine.errors import ReleaseInvalid
from generation.engine.release import PROMPT_EMBEDS
from generation.engine.request import StoredEmbedding
from generation.errors import ReleaseRefused
from generation.models import PromptVariant, Release

log = structlog.get_logger(__name__)

TENSOR = "prompt_embeds"  # F16 [covered variants, tokens, width], in the order of the manifest
HEADER_BYTES = 100_000_000  # the limit of the safetensors format
BATCH = 200  # rows of one transaction


def store_missing() -> int:
    """`store` for every candidate and active release. What one of them cannot give is logged, not raised."""
    stored = 0
    served = (Release.Status.CANDIDATE, Release.Status.ACTIVE)
    for release in Release.objects.filter(status__in=served).order_by("registered_at", "pk"):
        try:
            stored += store(release)
        except ReleaseRefused as error:
            log.error("embeddings_unreadable", release=release.name, error=str(error))
    return stored


def store(release: Release) -> int:
    """Store what the release brings for active variants of the same slug and text that lack an embedding.

    Texts are compared as the catalogue compares them. Returns how many were stored. Raises ReleaseRefused if the file
    is damaged.
    """
    if not brings(release.manifest):
        return 0
    waiting = catalogue.missing(release.encoder_fingerprint)
    by_slug = {
        variant.slug: variant
        for variant in waiting.filter(slug__in=release.manifest["covered_variants"])
    }
    if not by_slug:
        return 0
    stored = 0
    batch: list[tuple[PromptVariant, StoredEmbedding]] = []
    for slug, text, embedding in read(releases.folder(release), release.manifest):
        variant = by_slug.get(slug)
        if variant is not None and variant.normalized_text == catalogue.normalize(text):
            batch.append((variant, embedding))
        if len(batch) == BATCH:
            stored += _write(release, batch)
            batch.clear()
    stored += _write(release, batch)
    if stored:
        log.info("embeddings_taken_from_release", release=release.name, stored=stored)
    return stored


def _write(release: Release, batch: list[tuple[PromptVariant, StoredEmbedding]]) -> int:
    variants = [variant for variant, _ in batch]
    embeddings.store(variants, release.encoder_fingerprint, [embedding for _, embedding in batch])
    return len(batch)


# --- the file -------------------------------------------------------------------------------------
def check(folder: Path) -> None:
    """Raises ReleaseRefused if a release folder has embeddings that do not fit its manifest."""
    try:
        manifest = release_format.manifest_to_dict(release_format.read(folder))
    except ReleaseInvalid as error:
        raise ReleaseRefused(error.detail) from error
    if brings(manifest):
        for _ in read(folder, manifest):
            pass


def brings(manifest: dict[str, Any]) -> bool:
    """Whether the release has embeddings of its own."""
    return any(file["path"] == PROMPT_EMBEDS for file in manifest["files"])


def read(folder: Path, manifest: dict[str, Any]) -> Iterator[tuple[str, str, StoredEmbedding]]:
    """(slug, text, embedding) of each covered variant. Raises ReleaseRefused if the file is not the manifest's."""
    path = folder / PROMPT_EMBEDS
    slugs: list[str] = manifest["covered_variants"]
    tokens, width = manifest["embedding_shape"]
    row_bytes = 2 * tokens * width
    (listed,) = (file for file in manifest["files"] if file["path"] == PROMPT_EMBEDS)
    try:
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != listed["sha256"]:
                raise _refused(path, "it is not the file that release.json lists")
            texts = _seek(file, path, [len(slugs), tokens, width])
            for slug, text in zip(slugs, texts, strict=True):
                data = file.read(row_bytes)
                sha256 = hashlib.sha256(data).hexdigest()
                yield (
                    slug,
                    text,
                    StoredEmbedding(
                        data, (tokens, width), "float16", sha256, manifest["encoder_fingerprint"]
                    ),
                )
    except OSError as error:
        raise _refused(path, f"it cannot be read ({error.strerror})") from error


def _seek(file: BinaryIO, path: Path, shape: list[int]) -> list[str]:
    """Go to the first row. Returns the texts, one for each row.

    A safetensors file is the length of its header (8 bytes, little-endian), the header as JSON, and the values.
    """
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if length > HEADER_BYTES:
        raise _refused(path, "it is not a safetensors file")
    try:
        header = json.loads(file.read(length))
        tensor = header[TENSOR]
        texts = json.loads(header["__metadata__"]["texts"])
        start, stop = tensor["data_offsets"]
        found = tensor["dtype"], tensor["shape"], sum(isinstance(text, str) for text in texts)
    except (ValueError, KeyError, TypeError) as error:
        raise _refused(path, f"it lacks {TENSOR} or the texts ({error!r})") from error
    if found != ("F16", shape, shape[0]) or stop - start != 2 * prod(shape):
        raise _refused(path, f"it holds {found}, and release.json says F16 {shape}")
    file.seek(8 + length + start)
    return texts


def _refused(path: Path, why: str) -> ReleaseRefused:
    return ReleaseRefused(f"{path}: {why}. Copy the release again from where it came.")
