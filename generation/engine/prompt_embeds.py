"""Prompt embeddings file of a release: one embedding per covered prompt variant. Imports no torch."""

import hashlib
import json
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from generation.engine import release
from generation.engine.errors import ReleaseInvalid
from generation.engine.release import PROMPT_EMBEDS
from generation.engine.request import StoredEmbedding

TENSOR = "prompt_embeds"  # F16 [covered variants, tokens, width], in the order of the manifest
HEADER_BYTES = 100_000_000  # the limit of the safetensors format


def brings(manifest: dict[str, Any]) -> bool:
    """Return whether the release contains embeddings."""
    return any(file["path"] == PROMPT_EMBEDS for file in manifest["files"])


def read(folder: Path, manifest: dict[str, Any]) -> Iterator[tuple[str, str, StoredEmbedding]]:
    """Yield (slug, text, embedding) of each covered variant. Raises ReleaseInvalid if the file differs from it."""
    path = folder / PROMPT_EMBEDS
    slugs: list[str] = manifest["covered_variants"]
    tokens, width = manifest["embedding_shape"]
    row_bytes = 2 * tokens * width
    (listed,) = (file for file in manifest["files"] if file["path"] == PROMPT_EMBEDS)
    try:
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != listed["sha256"]:
                raise _invalid(path, "it differs from the file in release.json")
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
        raise _invalid(path, f"it cannot be read ({error.strerror})") from error


def _seek(file: BinaryIO, path: Path, shape: list[int]) -> list[str]:
    """Go to the first row. Return the texts, one per row.

    A safetensors file is the length of its header (8 bytes, little-endian), the header as JSON, and the values.
    """
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if length > HEADER_BYTES:
        raise _invalid(path, "it is not a safetensors file")
    try:
        header = json.loads(file.read(length))
        tensor = header[TENSOR]
        texts = json.loads(header["__metadata__"]["texts"])
        start, stop = tensor["data_offsets"]
        found = tensor["dtype"], tensor["shape"], sum(isinstance(text, str) for text in texts)
    except (ValueError, KeyError, TypeError) as error:
        raise _invalid(path, f"{TENSOR} or the texts are missing ({error!r})") from error
    if found != ("F16", shape, shape[0]) or stop - start != 2 * prod(shape):
        raise _invalid(path, f"it has {found}, but release.json needs F16 {shape}")
    file.seek(8 + length + start)
    return texts


def _invalid(path: Path, why: str) -> ReleaseInvalid:
    return ReleaseInvalid(f"{path}: {why}. Copy the release again from its source.")


def check(folder: Path) -> None:
    """Read the file of a release folder completely. Raises ReleaseInvalid if it does not match the manifest."""
    manifest = release.manifest_to_dict(release.read(folder))
    if brings(manifest):
        for _ in read(folder, manifest):
            pass
