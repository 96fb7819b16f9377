"""Storage of image files: a local folder or an object store.

Names are content hashes, so a file is stored once; writes are atomic. Errors of the storage become StorageFailed;
FileMissing only if the file is absent from a storage that is available.

Files are synced to the disk by other threads while the next one is encoded: many at once take as long as one. Before
inserting a row that refers to files, wait with `sync`. A file whose content does not match its name is never returned.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import structlog
from django.conf import settings
from django.core.files.base import ContentFile
from django.core.files.storage import FileSystemStorage, Storage, default_storage

from generation.errors import FileMissing, StorageFailed
from generation.images.breaker import Breaker
from generation.infra import metrics

log = structlog.get_logger(__name__)

T = TypeVar("T")
R = TypeVar("R")

CONTENT_TYPES = {"webp": "image/webp", "png": "image/png", "jpeg": "image/jpeg"}
IMAGES, THUMBNAILS = (
    "images",
    "thumbnails",
)  # folders, each with one folder per first byte of a hash
AT_ONCE = 8  # concurrent requests to an object store
IMPATIENT = {  # limits of a web process's requests to an object store
    "connect_timeout": 3,
    "read_timeout": 5,
    "retries": {"mode": "standard", "total_max_attempts": 2},
}

# Limit of a web process's wait for a local folder, whose disk or server may hang.
LOCAL_SECONDS = 5.0

_breaker: Breaker | None = None  # of a web process
_hands = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="storage")
_syncing: dict[str, Future[None]] = {}  # by name
_syncers = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="sync")


@dataclass(frozen=True)
class StoredFile:
    """A file in the storage. name: relative to its root."""

    name: str
    sha256: str
    size_bytes: int


def save(content: bytes, extension: str) -> StoredFile:
    """Store `content` under its hash and return the file. Raises StorageFailed."""
    sha256 = hashlib.sha256(content).hexdigest()
    stored = StoredFile(_name(IMAGES, sha256, extension), sha256, len(content))
    keep(stored.name, content)
    return stored


def thumbnail_name(file: str) -> str:
    """Return the name of a file's thumbnail, which may not exist."""
    return _name(THUMBNAILS, PurePosixPath(file).stem, "webp")


def source_name(name: str) -> str:
    """Return the name of the file that a thumbnail was made from, always a PNG; any other name unchanged."""
    folder, _, rest = name.partition("/")
    return f"{IMAGES}/{PurePosixPath(rest).with_suffix('.png')}" if folder == THUMBNAILS else name


def _name(folder: str, sha256: str, extension: str) -> str:
    return f"{folder}/{sha256[:2]}/{sha256}.{extension}"


def keep(name: str, content: bytes) -> None:
    """Store `content` under this name unless the file exists. Raises StorageFailed."""
    if _is_local():
        path = Path(settings.MEDIA_ROOT) / name
        is_new = _ask(name, lambda: _put(path, content))
        _begin_sync(name, path, is_new=is_new)
        return
    if size(name) == len(content):
        return
    file = ContentFile(content)
    file.content_type = CONTENT_TYPES[PurePosixPath(name).suffix[1:]]  # type: ignore[attr-defined]
    _ask(name, lambda: default_storage.save(name, file))


def _put(path: Path, content: bytes) -> bool:
    """Write the file unless it exists. Return whether it is new. Raises StorageFailed."""
    if _has(path, content):
        return False
    _write(path, content)
    return True


def _has(path: Path, content: bytes) -> bool:
    """Compare the content: after a crash a file may have the right size and no content."""
    try:
        return path.stat().st_size == len(content) and path.read_bytes() == content
    except OSError:
        return False


def _write(path: Path, content: bytes) -> None:
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".partial-")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            with suppress(OSError):
                os.unlink(temporary)  # otherwise each try on a full disk would leave a partial file
        raise StorageFailed(
            f"{path.parent}: {error.strerror}. Check free space and permissions of DATA_DIR."
        ) from error


# --- durability -----------------------------------------------------------------------------------
def sync(names: Iterable[str]) -> None:
    """Wait until the files that this process stored are on the disk. Raises StorageFailed if one is not."""
    begun = {name: future for name in names if (future := _syncing.get(name)) is not None}
    if begun:
        _ask(next(iter(begun)), lambda: wait(begun.values()))
    failed = {name: future for name, future in begun.items() if future.exception() is not None}
    for name, future in failed.items():
        _forget(name, future)
    for future in failed.values():
        future.result()


def _begin_sync(name: str, path: Path, *, is_new: bool) -> None:
    future = _syncing[name] = _syncers.submit(_sync, name, path, is_new=is_new)

    def ended(future: Future[None]) -> None:
        if future.exception() is None:  # an error is kept until `sync` raises it
            _forget(name, future)

    future.add_done_callback(ended)


def _forget(name: str, future: Future[None]) -> None:
    if _syncing.get(name) is future:
        _syncing.pop(name, None)


def _sync(name: str, path: Path, *, is_new: bool) -> None:
    """Sync a file and its folder. Raises StorageFailed; a new file is then removed."""
    try:
        for place in (path, path.parent):
            handle = os.open(place, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
    except FileNotFoundError:
        pass  # removed in the meantime: the writer of the row detects it
    except OSError as error:
        log.error("file_not_synced", file=name, error=error.strerror)
        if is_new:
            with suppress(OSError):
                path.unlink(missing_ok=True)
        raise StorageFailed(f"{name}: {error.strerror}. Check the disk of DATA_DIR.") from error


# --- reading and listing --------------------------------------------------------------------------


def size(name: str) -> int | None:
    """Return the size in bytes; None if there is no such file. Raises StorageFailed."""
    try:
        if _is_local():
            return _ask(name, lambda: os.stat(Path(settings.MEDIA_ROOT) / name).st_size)
        return _ask(name, lambda: default_storage.size(name))
    except FileNotFoundError:
        return None


def exists(name: str) -> bool:
    """Return whether the file exists. Raises StorageFailed."""
    return size(name) is not None


def missing(name: str, why: str = "is missing") -> StorageFailed:
    """Return the error for a file that is not there: FileMissing, or StorageFailed if the storage is not mounted.

    It is not mounted if the folder of images does not exist, although images have rows.
    """
    if not _is_local() or os.path.isdir(Path(settings.MEDIA_ROOT) / IMAGES):
        return FileMissing(f"The file {name} {why}.")
    return StorageFailed(
        f"The file {name} {why}: the folder of images is missing. Mount the storage at DATA_DIR."
    )


def modified_at(name: str) -> datetime | None:
    """Return the time of the last change; None if there is no such file. Raises StorageFailed."""
    try:
        return _ask(name, lambda: default_storage.get_modified_time(name))
    except FileNotFoundError:
        return None


def read(name: str) -> bytes:
    """Return the content. A file whose content does not match its name is removed.

    Raises StorageFailed; FileMissing if the file is missing or was removed.
    """
    content = _read(name)
    if _is_whole(name, content):
        return content
    content = _read(name)  # second try: a network disk may return wrong bytes once
    if _is_whole(name, content):
        return content
    log.error("file_damaged", file=name, size_bytes=len(content))
    metrics.increment("retort_damaged_files_total")
    remove(name)
    raise missing(name, "was damaged and was removed")


def _read(name: str) -> bytes:
    def content() -> bytes:
        with default_storage.open(name) as file:
            return file.read()

    try:
        return _ask(name, content)
    except FileNotFoundError as error:
        raise missing(name) from error


def _is_whole(name: str, content: bytes) -> bool:
    path = PurePosixPath(name)
    # A thumbnail has the hash of its source in its name.
    return path.parts[0] != IMAGES or hashlib.sha256(content).hexdigest() == path.stem


def copy(name: str, target: Path) -> None:
    """Copy a file to a local path, as a hard link if possible."""
    if not _is_local():
        target.write_bytes(read(name))
        return
    source = Path(settings.MEDIA_ROOT) / name
    try:
        os.link(source, target)
    except OSError:  # different file systems, or no hard links
        shutil.copyfile(source, target)


def remove(name: str) -> None:
    """Remove a file, which may be missing. Raises StorageFailed."""
    _ask(name, lambda: default_storage.delete(name))


def folders() -> Iterator[list[str]]:
    """Yield the names of all files, folder by folder. Raises StorageFailed."""
    for top in (IMAGES, THUMBNAILS):
        for part in sorted(_listed(top)[0]):
            yield files_in(f"{top}/{part}")


def files_in(folder: str) -> list[str]:
    """Return the names of the files in a folder. Raises StorageFailed."""
    return [f"{folder}/{name}" for name in sorted(_listed(folder)[1])]


def _listed(folder: str) -> tuple[list[str], list[str]]:
    try:
        return _ask(folder, lambda: default_storage.listdir(folder))
    except FileNotFoundError:
        return [], []


def link(name: str, *, seconds: int, save_as: str = "") -> str | None:
    """Return a URL where a client can fetch the file directly; None for local storage. save_as: download name."""
    if not settings.S3_BUCKET or settings.S3_DELIVERY != "redirect":
        return None
    parameters = {}
    if save_as:
        parameters["ResponseContentDisposition"] = f'attachment; filename="{save_as}"'
    storage: Any = default_storage
    with _failing(name):  # signs: asks nothing
        return storage.url(name, parameters=parameters, expire=seconds)


def at_once(function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """Map `function` over the items in order; concurrently for an object store. Must not be nested."""
    if _is_local() or len(items) < 2:
        return [function(item) for item in items]
    return list(_hands.map(function, items))


def _is_local() -> bool:
    storage: Storage = default_storage
    return isinstance(storage, FileSystemStorage)


def fail_fast() -> None:
    """Prepare a web process, whose few threads must not wait for a storage that does not answer.

    Workers wait longer: they have computed what they store.
    """
    global _breaker
    _breaker = Breaker(_is_answer)
    if _is_local():
        return
    from botocore.config import Config

    storage: Any = default_storage
    storage.client_config = storage.client_config.merge(Config(**IMPATIENT))


def _is_answer(error: Exception) -> bool:
    """Return whether an error of the object store's library is a response of the store."""
    return isinstance(error, FileNotFoundError) or getattr(error, "response", None) is not None


def _ask(name: str, call: Callable[[], T]) -> T:
    """Call the storage, in a web process with the breaker. Convert errors as `_failing`."""
    with _failing(name):
        if _breaker is None:
            return call()
        if _is_local():
            return _breaker.run(call, seconds=LOCAL_SECONDS)
        storage: Any = default_storage
        _ = storage.connection  # of this thread: making one takes long, but calls nothing
        with _breaker.call():
            return call()


@contextmanager
def _failing(name: str) -> Iterator[None]:
    """Convert errors to StorageFailed, except FileNotFoundError."""
    try:
        yield
    except NotADirectoryError as error:
        raise FileNotFoundError(name) from error
    except (FileNotFoundError, StorageFailed):
        raise
    except OSError as error:
        raise StorageFailed(f"{name}: {error.strerror or error}.") from error
    except Exception as error:  # object store libraries raise their own exceptions
        if _is_local():
            raise
        answer = getattr(error, "response", None) or {}
        if answer.get("Error", {}).get("Code") in ("404", "NoSuchKey"):
            raise FileNotFoundError(name) from error
        raise StorageFailed(f"{name}: {error}") from error
