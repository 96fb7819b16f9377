"""Probes of a worker's dependencies."""

import os

from generation.errors import StorageFailed
from generation.images import storage

FILE_BYTES = 256 * 1024


def probe_storage() -> None:
    """Write, read and remove a file of random bytes. Raises StorageFailed."""
    content = os.urandom(FILE_BYTES)
    stored = storage.save(content, "png")
    storage.sync([stored.name])
    try:
        if storage.read(stored.name) != content:
            raise StorageFailed(f"{stored.name}: the bytes read differ from those written.")
    finally:
        storage.remove(stored.name)
