"""Pictures that people upload: files in a folder below the first root of sources, which an image source then reads."""

import hashlib
from collections.abc import Iterable
from pathlib import PurePath

from django.core.files.uploadedfile import UploadedFile
from django.utils.text import slugify

from distillation.errors import DistillationRefused
from distillation.examples import lifecycle as examples
from distillation.resumable import atomic

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
