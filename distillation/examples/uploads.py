"""Pictures that people upload: files in a folder below the first root of sources, which an image source then reads."""

import hashlib
import shutil
from collections.abc import Iterable
from pathlib import Path, PurePath

import structlog
from django.core.files.uploadedfile import UploadedFile
from django.utils.text import slugify

from distillation.errors import DistillationRefused
from distillation.examples import lifecycle as examples
from distillation.models import ImageSource
from distillation.resumable import atomic

log = structlog.get_logger(__name__)

FOLDER = "uploads/"  # begins the URLs of such sources, relative to the first root
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
STEM = 60  # characters of the given name that are kept


def url_of(name: str) -> str:
    """Return the URL of the source of this name."""
    return FOLDER + name


def check(files: Iterable[UploadedFile], url: str) -> None:
    """Raise DistillationRefused unless the files have picture suffixes and the URL is that of a source of uploads."""
    names = [str(file.name) for file in files]
    if names and not url.startswith(FOLDER):
        raise DistillationRefused(
            "Pictures are uploaded to a folder of their own: leave the URL empty."
        )
    for name in names:
        if PurePath(name).suffix.lower() not in SUFFIXES:
            raise DistillationRefused(f"{name}: only {', '.join(SUFFIXES)} can be uploaded.")


def store(files: Iterable[UploadedFile], url: str) -> None:
    """Write the files into the folder of the source. Raises DistillationRefused if it cannot be written."""
    folder = examples.folder_of(url)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file in files:
            content, given = file.read(), PurePath(str(file.name))
            stem = slugify(given.stem)[:STEM] or "picture"
            name = f"{stem}-{hashlib.sha256(content).hexdigest()[:8]}{given.suffix.lower()}"
            atomic.write_file(folder / name, content)
    except OSError as error:
        raise DistillationRefused(
            f"The pictures cannot be stored in {folder} ({error.strerror}). Let the web process write there."
        ) from error


def delete_unused(urls: Iterable[str]) -> None:
    """Delete the uploads of deleted sources, except folders that overlap another source's. Call after the commit.

    Otherwise a later source of the same name would read them.
    """
    root = examples.folder_of(FOLDER)
    used = [folder for url in _urls() if (folder := _folder(url)) is not None]
    for url in urls:
        folder = _folder(url)
        # Never a folder of an operator, such as that of uploads/../vases.
        if not url.startswith(FOLDER) or folder is None or folder.parent != root:
            continue
        if not folder.is_dir() or any(
            other.is_relative_to(folder) or folder.is_relative_to(other) for other in used
        ):
            continue
        try:
            shutil.rmtree(folder)
            log.info("uploads_deleted", folder=str(folder))
        except OSError as error:
            log.warning("uploads_not_deleted", folder=str(folder), error=str(error))


def _urls() -> list[str]:
    return list(ImageSource.objects.values_list("url", flat=True))


def _folder(url: str) -> Path | None:
    """Return the folder of a source; None for a location outside of the roots."""
    try:
        return examples.folder_of(url)
    except DistillationRefused:
        return None
