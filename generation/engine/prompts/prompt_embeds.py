"""Prompt embeddings file of a release: text and embedding of each covered variant. Imports neither numpy nor torch."""

import hashlib
import json
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import BinaryIO

from generation.engine import release
from generation.engine.errors import ReleaseInvalid
from generation.engine.release import PROMPT_EMBEDS, Manifest, ReleaseFile
from generation.engine.request import StoredEmbedding

TENSOR = "prompt_embeds"  # F16 [covered variants, tokens, width], in the order of the manifest
# High byte of a float16 → whether it is infinity or NaN. The web process has no numpy.
_NOT_FINITE = bytes((byte & 0x7C) == 0x7C for byte in range(256))
HEADER_BYTES = 100_000_000  # the limit of the safetensors format


def listed(manifest: Manifest) -> ReleaseFile | None:
    """Return the manifest's entry for the file, or None if the release has no embeddings of its own."""
    return next((file for file in manifest.files if file.path == PROMPT_EMBEDS), None)


def read_texts(folder: Path, manifest: Manifest) -> dict[str, str]:
    """Return slug → text of the covered variants. Reads only the header and does not verify the file's hash.

    Raises ReleaseInvalid.
    """
    path = folder / PROMPT_EMBEDS
    try:
        with path.open("rb") as file:
            texts = _read_header(file, path, manifest)
    except OSError as error:
        raise _unreadable(path, error) from error
    return dict(zip(manifest.covered_variants, texts, strict=True))


def read(folder: Path, manifest: Manifest) -> Iterator[tuple[str, str, StoredEmbedding]]:
    """Yield (slug, text, embedding) of each covered variant, if the release has its own embeddings.

    Raises ReleaseInvalid if the file does not match the manifest.
    """
    entry = listed(manifest)
    if entry is None:
        return
    path = folder / PROMPT_EMBEDS
    tokens, width = manifest.embedding_shape
    try:
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != entry.sha256:
                raise _invalid(path, "it differs from the file in release.json")
            texts = _read_header(file, path, manifest)
            for slug, text in zip(manifest.covered_variants, texts, strict=True):
                data = file.read(2 * tokens * width)
                if b"\1" in data[1::2].translate(_NOT_FINITE):
                    raise _invalid(path, f"the embedding of {slug} has values that are not finite")
                sha256 = hashlib.sha256(data).hexdigest()
                yield (
                    slug,
                    text,
                    StoredEmbedding(
                        data, (tokens, width), "float16", sha256, manifest.encoder_fingerprint
                    ),
                )
    except OSError as error:
        raise _unreadable(path, error) from error


def _read_header(file: BinaryIO, path: Path, manifest: Manifest) -> list[str]:
    """Return the texts, one per row, with the file positioned at the first row.

    A safetensors file is the length of its header (8 bytes, little-endian), the header as JSON, and the values.
    """
    shape = [len(manifest.covered_variants), *manifest.embedding_shape]
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


def _unreadable(path: Path, error: OSError) -> ReleaseInvalid:
    return _invalid(path, f"it cannot be read ({error.strerror})")


def _invalid(path: Path, why: str) -> ReleaseInvalid:
    return ReleaseInvalid(f"{path}: {why}. Copy the release again from its source.")


def check(folder: Path) -> None:
    """Read the whole file. Raises ReleaseInvalid if it does not match the manifest."""
    for _ in read(folder, release.read(folder)):
        pass
