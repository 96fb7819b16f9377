"""Names and places of image files. Content decides the name, so a file is stored once; writes are whole or absent."""

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings
from django.core.files.storage import default_storage

from generation.errors import StorageFailed

CONTENT_TYPES = {"webp": "image/webp", "png": "image/png", "jpeg": "image/jpeg"}


@dataclass(frozen=True)
class StoredFile:
    """A file in the storage. name: relative to its root."""

    name: str
    sha256: str
    size_bytes: int


def save(content: bytes, extension: str) -> StoredFile:
    """Store `content` under the name that its hash gives. Raises StorageFailed."""
    sha256 = hashlib.sha256(content).hexdigest()
    stored = StoredFile(f"images/{sha256[:2]}/{sha256}.{extension}", sha256, len(content))
    path = Path(settings.MEDIA_ROOT) / stored.name
    try:
        # A whole file is there already, or a torn one from a machine that lost power: the size tells.
        if path.is_file() and path.stat().st_size == stored.size_bytes:
            return stored
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".partial-")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise StorageFailed(
            f"{path.parent}: {error.strerror}. Check the space and the rights of DATA_DIR."
        ) from error
    return stored


def exists(name: str) -> bool:
    return default_storage.exists(name)


def read(name: str) -> bytes:
    """Raises StorageFailed."""
    try:
        with default_storage.open(name) as file:
            return file.read()
    except OSError as error:
        raise StorageFailed(f"{name}: {error.strerror}.") from error


def path_of(name: str) -> str:
    """Where the file lies on this machine."""
    return default_storage.path(name)
